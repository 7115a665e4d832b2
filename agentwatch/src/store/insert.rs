//! Events into the tables of a file: the row, and what it refers to.
//!
//! What was referred to lately is remembered with its number, so that a row costs one insertion. The
//! memory is bounded: a part of it that is full is emptied, and what comes again is put down again.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::Connection;

use super::{packed::Packed, row::Row};

/// Most texts that are remembered, and most of them by length; and most actors, and flows.
const TEXTS: usize = 32_768;
const LONGEST: usize = 256;
const ACTORS: usize = 8192;

const INSERT: &str = "INSERT INTO event_rows (id, time_ns, kind, actor, dir, name, dir2, name2, result, dev, ino, \
    flow, bytes_in, bytes_out, facts, flags, mode, count, signal, user_ns, system_ns, max_rss_pages, offset, \
    len, argv, cwd, domain, server_name, device, dns_name, head, detail) VALUES \
    (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,?25,?26,?27,?28,\
    ?29,?30,?31,?32)";

/// Who did something: all of it is the same for most events of a process.
#[derive(PartialEq, Eq, Hash)]
struct Actor {
    run: i64,
    agent: i64,
    pid: u32,
    start_ns: u64,
    ppid: u32,
    uid: u32,
    comm: i64,
    exe: Option<i64>,
}

/// A connection, or what of one is known.
#[derive(PartialEq, Eq, Hash)]
struct Flow {
    protocol: Option<String>,
    direction: Option<String>,
    local: Option<String>,
    remote: Option<String>,
    remote_port: Option<u16>,
    cookie: Option<u64>,
}

/// What a writer remembers of a file. Of no use any more when a transaction was not committed.
#[derive(Default)]
pub struct Inserter {
    texts: HashMap<String, i64>,
    kinds: HashMap<String, i64>,
    actors: HashMap<Actor, i64>,
    flows: HashMap<Flow, i64>,
    /// The newest event of the transaction, and of those before it in the file.
    newest_ns: Option<i64>,
    /// Whether the events of the transaction came in the order of their times.
    unsorted: bool,
}

impl Inserter {
    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn begin(&mut self, to: &Connection) -> Result<()> {
        let newest = to
            .prepare_cached("SELECT time_ns FROM newest")?
            .query_row([], |row| row.get(0))?;
        (self.newest_ns, self.unsorted) = (Some(newest), false);
        Ok(())
    }

    /// Notes what the transaction has: to be called before it is committed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn finish(&mut self, to: &Connection) -> Result<()> {
        to.prepare_cached("UPDATE newest SET time_ns = max(time_ns, ?1), sorted = sorted AND ?2")?
            .execute((self.newest_ns.take().unwrap_or(0), !self.unsorted))?;
        Ok(())
    }

    /// Inserts an event of a run; with the next id, where none is given.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn event(&mut self, to: &Connection, run: &str, row: &Row, id: Option<i64>) -> Result<()> {
        let newest = self.newest_ns.unwrap_or(i64::MIN);
        self.unsorted |= row.time_ns < newest;
        self.newest_ns = Some(newest.max(row.time_ns));

        let kind = self.kind(to, &row.kind)?;
        let actor = self.actor(to, run, row)?;
        let flow = self.flow(to, row)?;
        let (dir, name) = self.path(to, row.path.as_deref())?;
        let (dir2, name2) = self.path(to, row.path2.as_deref())?;
        let packed = row.detail.as_ref().map(Packed::new).unwrap_or_default();
        let mut texts = [None; 4];
        for (id, text) in texts.iter_mut().zip(packed.texts) {
            *id = text.map(|text| self.text(to, text)).transpose()?;
        }

        // What is not bound is NULL: most columns of most rows.
        let mut insert = to.prepare_cached(INSERT)?;
        insert.clear_bindings();
        macro_rules! bind {
            ($at:expr, $value:expr) => {
                if let Some(value) = $value {
                    insert.raw_bind_parameter($at, value)?;
                }
            };
        }
        // SQLite's integers are signed: numbers above 2^63 come back the same by a cast.
        bind!(1, id);
        bind!(2, Some(row.time_ns));
        bind!(3, Some(kind));
        bind!(4, Some(actor));
        bind!(5, dir);
        bind!(6, name);
        bind!(7, dir2);
        bind!(8, name2);
        bind!(9, row.result);
        bind!(10, row.dev);
        bind!(11, row.ino.map(u64::cast_signed));
        bind!(12, flow);
        bind!(13, row.bytes_in.map(u64::cast_signed));
        bind!(14, row.bytes_out.map(u64::cast_signed));
        bind!(15, Some(packed.facts));
        for (at, number) in packed.numbers.iter().enumerate() {
            bind!(16 + at, number.map(u64::cast_signed));
        }
        bind!(25, packed.argv.as_deref());
        for (at, text) in texts.iter().enumerate() {
            bind!(26 + at, *text);
        }
        for (at, text) in packed.plain.iter().enumerate() {
            bind!(30 + at, *text);
        }
        bind!(32, packed.rest.as_deref());
        insert.raw_execute()?;
        Ok(())
    }

    /// The number of a kind: the same in the whole file, since there is an index of some.
    fn kind(&mut self, to: &Connection, kind: &str) -> Result<i64> {
        if let Some(id) = self.kinds.get(kind) {
            return Ok(*id);
        }
        to.execute("INSERT OR IGNORE INTO kinds (kind) VALUES (?1)", [kind])?;
        let id = to.query_row("SELECT id FROM kinds WHERE kind = ?1", [kind], |row| {
            row.get(0)
        })?;
        self.kinds.insert(kind.to_owned(), id);
        Ok(id)
    }

    /// The number of a text.
    fn text(&mut self, to: &Connection, text: &str) -> Result<i64> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let id = to
            .prepare_cached("INSERT INTO texts (text) VALUES (?1)")?
            .insert([text])?;
        if text.len() <= LONGEST {
            remember(&mut self.texts, TEXTS, text.to_owned(), id);
        }
        Ok(id)
    }

    /// A path as the number of its folder, with the slash, and the name in it.
    fn path<'a>(
        &mut self,
        to: &Connection,
        path: Option<&'a str>,
    ) -> Result<(Option<i64>, Option<&'a str>)> {
        let Some(path) = path else {
            return Ok((None, None));
        };
        match path.rfind('/') {
            Some(slash) => {
                let (dir, name) = path.split_at(slash + 1);
                Ok((Some(self.text(to, dir)?), Some(name)))
            }
            None => Ok((None, Some(path))),
        }
    }

    fn actor(&mut self, to: &Connection, run: &str, row: &Row) -> Result<i64> {
        let actor = Actor {
            run: self.text(to, run)?,
            agent: self.text(to, &row.agent)?,
            pid: row.pid,
            start_ns: row.start_ns,
            ppid: row.ppid,
            uid: row.uid,
            comm: self.text(to, &row.comm)?,
            exe: row
                .exe
                .as_deref()
                .map(|exe| self.text(to, exe))
                .transpose()?,
        };
        if let Some(id) = self.actors.get(&actor) {
            return Ok(*id);
        }
        let id = to
            .prepare_cached(
                "INSERT INTO actors (run, agent, pid, start_ns, ppid, uid, comm, exe) \
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
            )?
            .insert((
                actor.run,
                actor.agent,
                actor.pid,
                actor.start_ns.cast_signed(),
                actor.ppid,
                actor.uid,
                actor.comm,
                actor.exe,
            ))?;
        remember(&mut self.actors, ACTORS, actor, id);
        Ok(id)
    }

    /// The number of a connection; `None` where the event has nothing of one.
    fn flow(&mut self, to: &Connection, row: &Row) -> Result<Option<i64>> {
        if row.protocol.is_none() && row.local.is_none() && row.remote.is_none() {
            // Nothing else is there without these.
            if row.direction.is_none() && row.remote_port.is_none() && row.cookie.is_none() {
                return Ok(None);
            }
        }
        let flow = Flow {
            protocol: row.protocol.clone(),
            direction: row.direction.clone(),
            local: row.local.clone(),
            remote: row.remote.clone(),
            remote_port: row.remote_port,
            cookie: row.cookie,
        };
        if let Some(id) = self.flows.get(&flow) {
            return Ok(Some(*id));
        }
        let id = to
            .prepare_cached(
                "INSERT INTO flows (protocol, direction, local, remote, remote_port, cookie) \
                 VALUES (?1,?2,?3,?4,?5,?6)",
            )?
            .insert((
                &flow.protocol,
                &flow.direction,
                &flow.local,
                &flow.remote,
                flow.remote_port,
                flow.cookie.map(u64::cast_signed),
            ))?;
        remember(&mut self.flows, ACTORS, flow, id);
        Ok(Some(id))
    }
}

fn remember<K: std::hash::Hash + Eq>(memory: &mut HashMap<K, i64>, most: usize, key: K, id: i64) {
    if memory.len() >= most {
        memory.clear();
    }
    memory.insert(key, id);
}
