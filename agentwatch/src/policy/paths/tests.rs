use proptest::prelude::*;

use super::*;

fn set(patterns: &[&str]) -> PathSet {
    let patterns = patterns
        .iter()
        .map(|p| Pattern::try_from((*p).to_owned()).unwrap())
        .collect();
    PathSet::new(patterns, Vec::new()).unwrap()
}

fn names(patterns: &[&str]) -> Vec<String> {
    match set(patterns).prefilter() {
        Prefilter::Names(names) => names.into_iter().collect(),
        Prefilter::Everything { because } => panic!("everything because of {because}"),
    }
}

fn everything(patterns: &[&str]) -> String {
    match set(patterns).prefilter() {
        Prefilter::Names(names) => panic!("{names:?}"),
        Prefilter::Everything { because } => because,
    }
}

/// The kernel's side of it.
fn passes(prefilter: &Prefilter, path: &str) -> bool {
    match prefilter {
        Prefilter::Everything { .. } => true,
        Prefilter::Names(names) => path.rsplit('/').take(3).any(|name| names.contains(name)),
    }
}

#[test]
fn homes() {
    let mut set = set(&["~/.ssh/id_*"]);
    assert!(set.matches("/root/.ssh/id_rsa"));
    assert!(set.matches("/home/ann/.ssh/id_ed25519"));
    assert!(!set.matches("/home/ann/.ssh/known_hosts"));
    assert!(!set.matches("/home/.ssh/id_rsa"));
    assert!(!set.matches("/home/ann/x/.ssh/id_rsa"));
    assert!(!set.matches("/root/.ssh/id_x/y"));
    assert!(!set.matches("/srv/agent[1]/.ssh/id_rsa"));
    set.add_home(Path::new("/srv/agent[1]/")).unwrap();
    set.add_home(Path::new("relative")).unwrap();
    set.add_home(Path::new("")).unwrap();
    assert!(set.matches("/srv/agent[1]/.ssh/id_rsa"));
    assert!(!set.matches("/srv/agent1/.ssh/id_rsa"));
    assert!(set.matches("/root/.ssh/id_rsa"));
    assert_eq!(set.homes.len(), 1);
}

#[test]
fn a_home_is_also_where_its_link_leads() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    fs::create_dir(folder.join("real")).unwrap();
    std::os::unix::fs::symlink(folder.join("real"), folder.join("link")).unwrap();
    let mut set = set(&["~/secret"]);
    set.add_home(&folder.join("link")).unwrap();
    assert!(set.matches(folder.join("real/secret").to_str().unwrap()));
    assert!(set.matches(folder.join("link/secret").to_str().unwrap()));
}

#[test]
fn escaped_homes() {
    let mut set = set(&["~/x"]);
    set.add_home(Path::new("/srv/a\\b\n")).unwrap();
    assert!(set.matches(&format!("{}/x", crate::text::escape_str("/srv/a\\b\n"))));
    let mut set = self::set(&["~/x"]);
    set.add_home(Path::new("/")).unwrap();
    assert!(set.matches("/x"));
}

#[test]
fn wildcards_stay_in_their_component() {
    let set = set(&["/a/*/c", "/k/id_[!x]y", "/q/a?b"]);
    assert!(set.matches("/a/b/c"));
    assert!(!set.matches("/a/b/b/c"));
    assert!(!set.matches("/a/c"));
    assert!(set.matches("/k/id_zy"));
    assert!(!set.matches("/k/id_xy"));
    assert!(!set.matches("/k/id_/y"));
    assert!(!set.matches("/q/a/b"));
}

#[test]
fn double_star_is_any_number_of_components() {
    let set = set(&["/a/**/z", "**/.env", "/srv/**", "/m/**/n/**/o"]);
    for path in [
        "/a/z",
        "/a/b/z",
        "/a/b/c/z",
        "/.env",
        "/x/y/.env",
        "/srv/x",
        "/srv/x/y",
        "/m/n/o",
        "/m/1/n/2/3/o",
    ] {
        assert!(set.matches(path), "{path}");
    }
    for path in ["/a/bz", "/x.env", "/srv", "/srvx", "/m/o", "/b/a/z"] {
        assert!(!set.matches(path), "{path}");
    }
}

#[test]
fn excluded_wherever_it_stands() {
    let set = set(&["!**/*.pub", "**/.ssh/id_*"]);
    assert!(set.matches("/root/.ssh/id_rsa"));
    assert!(!set.matches("/root/.ssh/id_rsa.pub"));
    assert_eq!(names(&["!**", "**/.ssh/id_*"]), [".ssh"]);
}

#[test]
fn names_near_the_leaf() {
    assert_eq!(names(&["/etc/shadow"]), ["shadow"]);
    assert_eq!(names(&["~/.ssh/id_*"]), [".ssh"]);
    assert_eq!(names(&["~/.aws/*/*"]), [".aws"]);
    assert_eq!(names(&["/proc/*/environ"]), ["environ"]);
    assert_eq!(names(&["~/.aws/{credentials,c*}"]), [".aws", "credentials"]);
    assert_eq!(names(&["/a/**/b/*"]), ["b"]);
    assert_eq!(names(&["**/b/*/*"]), ["b"]);
    assert_eq!(names(&["/a]b/*"]), ["a]b"]);
    assert_eq!(names(&[]), [""; 0]);
}

#[test]
fn no_name_near_the_leaf() {
    for pattern in [
        "/a/**",
        "**",
        "/**",
        "**/*",
        "~/*",
        "~/*/*",
        "/a/*/*/*",
        "/a/**/*",
        "/a/**/*/*/*",
        "/a/b/**/*",
        "/{a,b/**}",
        "/a/**/**",
        "/*",
        "/[a]",
        "/a?",
    ] {
        assert_eq!(everything(&["/etc/shadow", pattern]), pattern);
    }
}

/// Patterns from a small alphabet, so that random paths do match them.
fn any_pattern() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", "ab", ".a", "*", "?", "[ab]", "[!a]", "a*", "*b", "{a,b}", "{a,b/a}", "{a,*}",
        "**", "**", "{a/**,b}", "{**,a}", "a]",
    ]);
    let start = prop::sample::select(vec!["/", "~/", "**/", "/", "/home/"]);
    (start, prop::collection::vec(piece, 1..6))
        .prop_map(|(start, rest)| start.to_owned() + &rest.join("/"))
}

fn any_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "a", "b", "ab", ".a", "aa", "home", "root", "bb", "a]", "c",
    ]);
    prop::collection::vec(name, 1..8).prop_map(|names| format!("/{}", names.join("/")))
}

/// What [`Pattern`] says that a pattern means, component by component.
fn means(components: &[String], path: &[&str]) -> bool {
    match components.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if first == "~" => {
            path.strip_prefix(["root"].as_slice())
                .is_some_and(|path| means(rest, path))
                || (path.first() == Some(&"home") && path.len() > 1 && means(rest, &path[2..]))
        }
        // At the end, `**` is what lies below, so at least one.
        Some((first, rest)) if first == "**" && rest.is_empty() => !path.is_empty(),
        Some((first, rest)) if first == "**" => (0..=path.len()).any(|i| means(rest, &path[i..])),
        Some((first, rest)) => path.split_first().is_some_and(|(name, path)| {
            pattern::matcher(first).unwrap().is_match(name) && means(rest, path)
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_path_of_the_set_passes_the_prefilter(
        patterns in prop::collection::vec(any_pattern(), 1..3),
        path in any_path(),
    ) {
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let set = set(&patterns);
        if set.matches(&path) {
            prop_assert!(passes(&set.prefilter(), &path));
        }
    }

    #[test]
    fn the_same_meaning_as_globset(pattern in any_pattern(), path in any_path()) {
        let set = set(&[&pattern]);
        let names: Vec<&str> = path[1..].split('/').collect();
        let expected = set.patterns[0].alternatives.iter().any(|a| means(a, &names));
        prop_assert_eq!(set.matches(&path), expected);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[/~]?[]\\[{},*?!^a/ä~.\\\\-]{0,20}", path in "/[]\\[{},*?!^a/ä~.-]{0,20}") {
        if let Ok(pattern) = Pattern::try_from(text) {
            let mut set = PathSet::new(vec![pattern], Vec::new()).unwrap();
            set.add_home(Path::new(&path)).unwrap();
            if set.matches(&path) {
                prop_assert!(passes(&set.prefilter(), &path), "{set:?}");
            }
        }
    }
}
