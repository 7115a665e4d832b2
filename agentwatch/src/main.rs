//! t
fn main() {
    let t = std::time::Instant::now();
    match agentwatch::probe::Probe::load(&agentwatch::probe::Options::DEFAULT) {
        Ok(mut p) => { for c in &p.capabilities { if c.missing.is_some() {println!("{c:?}");} }
            let d = agentwatch::probe::support::cgroup2().unwrap().join("awtest"); std::fs::create_dir_all(&d).unwrap();
            println!("{:?}", p.watch(1, &d, 77)); std::fs::remove_dir(&d).unwrap();
         }
        Err(e) => println!("{e:#}"),
    }
    println!("{:?}", t.elapsed());
}
