//! Events of the file of a day: what is asked for in SQL, and rows put together again.

use std::{cell::RefCell, collections::HashMap, fmt::Write as _, rc::Rc};

use anyhow::Result;
use rusqlite::{Connection, params_from_iter, types::Value};

use super::{packed::Packed, query::Filter, row::Row, schema, version1};

/// Most of each kind that is remembered of a file: what is forgotten is read again.
const REMEMBERED: usize = 65_536;

const COLUMNS: &str = "id, time_ns, kind, actor, dir, name, dir2, name2, result, dev, ino, flow, bytes_in, \
    bytes_out, facts, flags, mode, count, signal, user_ns, system_ns, max_rss_pages, offset, len, argv, cwd, \
    domain, server_name, device, dns_name, head, detail";

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they were stored.
    Stored,
    /// The same, the last one first.
    LastFirst,
    /// By time.
    Time,
}

/// Which events of a file.
pub struct Wanted<'a> {
    /// What is asked for; its limit does not matter.
    pub filter: &'a Filter,
    /// Only those with a greater id.
    pub after: i64,
    /// Only those up to this id.
    pub up_to: i64,
    /// The first so many of the order.
    pub limit: Option<usize>,
    /// In which order.
    pub order: Order,
}

impl<'a> Wanted<'a> {
    /// All that a filter asks for.
    pub fn all(filter: &'a Filter, order: Order) -> Self {
        Self {
            filter,
            after: i64::MIN,
            up_to: i64::MAX,
            limit: None,
            order,
        }
    }
}

/// The file of a day, opened for reading.
pub struct Day {
    /// The connection to it.
    pub connection: Connection,
    version: i64,
    memory: RefCell<Memory>,
}

/// What rows refer to, as read so far.
#[derive(Default)]
struct Memory {
    texts: HashMap<i64, Rc<str>>,
    kinds: HashMap<i64, Rc<str>>,
    actors: HashMap<i64, Rc<Actor>>,
    flows: HashMap<i64, Rc<Flow>>,
}

struct Actor {
    run: Rc<str>,
    agent: Rc<str>,
    pid: u32,
    start_ns: u64,
    ppid: u32,
    uid: u32,
    comm: Rc<str>,
    exe: Option<Rc<str>>,
}

struct Flow {
    protocol: Option<String>,
    direction: Option<String>,
    local: Option<String>,
    remote: Option<String>,
    remote_port: Option<u16>,
    cookie: Option<u64>,
}

type Sql<T> = Result<T, rusqlite::Error>;

impl Day {
    /// A file of a version that is known.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn new(connection: Connection) -> Result<Self> {
        Ok(Self {
            version: schema::version(&connection)?,
            connection,
            memory: RefCell::default(),
        })
    }

    /// Calls `each` with the id and the row of every event that is wanted.
    ///
    /// # Errors
    ///
    /// When a row cannot be read, and what `each` says.
    pub fn events(
        &self,
        wanted: &Wanted<'_>,
        mut each: impl FnMut(i64, Row) -> Result<()>,
    ) -> Result<()> {
        let (sql, values) = self.sql(wanted)?;
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            if self.version == 1 {
                each(row.get("id")?, version1::event(row)?)?;
            } else {
                each(row.get(0)?, self.row(row)?)?;
            }
        }
        Ok(())
    }

    /// The same of a file that may be damaged: what can be read is. How many rows could not, whether they
    /// were asked for or not, where that can be told, and why.
    ///
    /// # Errors
    ///
    /// When that takes more than leaving out rows, and what `each` says.
    pub fn events_through(
        &self,
        wanted: &Wanted<'_>,
        mut each: impl FnMut(i64, Row) -> Result<()>,
    ) -> Result<Option<(Option<u64>, String)>> {
        let mut after = wanted.after;
        let mut left = wanted.limit;
        let mut damage: Option<(Option<u64>, String)> = None;
        loop {
            let part = Wanted {
                after,
                limit: left,
                ..*wanted
            };
            let result = self.events(&part, |id, row| {
                after = id;
                left = left.map(|left| left - 1);
                each(id, row)
            });
            let Err(error) = result else {
                return Ok(damage);
            };
            // By time, or from the end, the place of the damage says nothing of what was read.
            let by_id = match wanted.order {
                Order::Stored => true,
                Order::LastFirst => false,
                Order::Time => self.is_sorted().unwrap_or(false),
            };
            if !by_id || !is_hole(&error) {
                return Err(error);
            }
            after = after.max(0);
            let before = damage.map_or(Some(0), |(rows, _)| rows);
            let sum = |more: Option<u64>| Some(before? + more?);
            let last = self.last_id();
            let Some(next) = self.behind(after, last) else {
                let rows = sum(last.map(|last| last.abs_diff(after)));
                return Ok(Some((rows, error.to_string())));
            };
            let rows = sum(Some(next.abs_diff(after) - 1));
            damage = Some((rows, error.to_string()));
            after = next - 1;
        }
    }

    /// The id of the last event, where that can be read.
    fn last_id(&self) -> Option<i64> {
        let sql = match self.version {
            1 => "SELECT max(id) FROM events",
            _ => "SELECT max(id) FROM event_rows",
        };
        self.connection.query_row(sql, [], |row| row.get(0)).ok()
    }

    /// The id of the first row that can be read behind a place whose next row cannot.
    fn behind(&self, after: i64, last: Option<i64>) -> Option<i64> {
        let all = Filter::default();
        let first = |from: i64| -> Option<i64> {
            let mut found = None;
            let wanted = Wanted {
                after: from,
                limit: Some(1),
                ..Wanted::all(&all, Order::Stored)
            };
            let read = self.events(&wanted, |id, _| {
                found = Some(id);
                Ok(())
            });
            read.ok().and(found)
        };
        // Farther and farther, then back to the edge of the hole.
        let end = last.unwrap_or(after + (1 << 32)) - 1;
        let (mut bad, mut step) = (after, 1);
        let mut good = loop {
            let at = end.min(bad + step);
            match first(at) {
                Some(_) => break at,
                None if at >= end => return None,
                None => (bad, step) = (at, step * 2),
            }
        };
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            match first(middle) {
                Some(_) => good = middle,
                None => bad = middle,
            }
        }
        first(good)
    }

    /// The query for what is wanted, and its values.
    fn sql(&self, wanted: &Wanted<'_>) -> Result<(String, Vec<Value>)> {
        let Wanted {
            filter,
            after,
            up_to,
            limit,
            order,
        } = wanted;
        let (mut condition, mut values) = self.condition(filter);
        if (*after, *up_to) != (i64::MIN, i64::MAX) {
            condition.push_str(" AND id > ? AND id <= ?");
            values.extend([Value::from(*after), Value::from(*up_to)]);
        }
        let order = match order {
            Order::Stored => "id",
            Order::LastFirst => "id DESC",
            Order::Time if self.is_sorted()? => "id",
            Order::Time => "time_ns, id",
        };
        let mut sql = match self.version {
            1 => format!(
                "SELECT {}, id FROM events WHERE {condition} ORDER BY {order}",
                version1::COLUMNS
            ),
            _ => format!("SELECT {COLUMNS} FROM event_rows WHERE {condition} ORDER BY {order}"),
        };
        if let Some(limit) = limit {
            sql.push_str(" LIMIT ?");
            values.push(i64::try_from(*limit).unwrap_or(i64::MAX).into());
        }
        Ok((sql, values))
    }

    /// Whether the events were stored in the order of their times. Then they need not be sorted.
    fn is_sorted(&self) -> Result<bool> {
        if self.version == 1 {
            return Ok(false);
        }
        let sorted = self
            .connection
            .query_row("SELECT sorted FROM newest", [], |row| row.get(0))?;
        Ok(sorted)
    }

    /// The condition of a filter, and its values.
    fn condition(&self, filter: &Filter) -> (String, Vec<Value>) {
        let (mut condition, mut values) = times(filter);
        if self.version == 1 {
            let (more, of) = names(filter);
            condition += &more;
            values.extend(of);
            return (condition, values);
        }
        let mut actor = String::new();
        for (column, text) in [("agent", &filter.agent), ("run", &filter.run)] {
            if let Some(text) = text {
                let _ = write!(
                    actor,
                    " AND {column} IN (SELECT id FROM texts WHERE text = ?)"
                );
                values.push(text.clone().into());
            }
        }
        if let Some(pid) = filter.pid {
            actor += " AND pid = ?";
            values.push(i64::from(pid).into());
        }
        if !actor.is_empty() {
            let _ = write!(
                condition,
                " AND actor IN (SELECT id FROM actors WHERE 1{actor})"
            );
        }
        if !filter.kinds.is_empty() {
            let marks = vec!["?"; filter.kinds.len()].join(",");
            let _ = write!(
                condition,
                " AND kind IN (SELECT id FROM kinds WHERE kind IN ({marks}))"
            );
            values.extend(filter.kinds.iter().map(|kind| Value::from(kind.clone())));
            let life = |kind: &String| schema::LIFE.contains(&kind.as_str());
            if filter.kinds.iter().all(life) {
                // So that SQLite sees that the index has them.
                condition += " AND kind <= 5";
            }
        }
        (condition, values)
    }

    /// A row of the columns.
    fn row(&self, from: &rusqlite::Row<'_>) -> Sql<Row> {
        let memory = &mut *self.memory.borrow_mut();
        let kind = self.kind(memory, from.get(2)?)?;
        let actor = self.actor(memory, from.get(3)?)?;
        let mut row = Row {
            time_ns: from.get(1)?,
            run: actor.run.as_ref().to_owned(),
            agent: actor.agent.as_ref().to_owned(),
            kind: kind.as_ref().to_owned(),
            pid: actor.pid,
            start_ns: actor.start_ns,
            ppid: actor.ppid,
            uid: actor.uid,
            comm: actor.comm.as_ref().to_owned(),
            exe: actor.exe.as_deref().map(str::to_owned),
            path: self.path(memory, from, 4)?,
            path2: self.path(memory, from, 6)?,
            result: from.get(8)?,
            dev: from.get(9)?,
            ino: unsigned(from, 10)?,
            bytes_in: unsigned(from, 12)?,
            bytes_out: unsigned(from, 13)?,
            ..Row::default()
        };
        if let Some(id) = from.get(11)? {
            let flow = self.flow(memory, id)?;
            row.protocol.clone_from(&flow.protocol);
            row.direction.clone_from(&flow.direction);
            row.local.clone_from(&flow.local);
            row.remote.clone_from(&flow.remote);
            row.remote_port = flow.remote_port;
            row.cookie = flow.cookie;
        }
        self.details(memory, from, &mut row)?;
        Ok(row)
    }

    fn details(&self, memory: &mut Memory, from: &rusqlite::Row<'_>, row: &mut Row) -> Sql<()> {
        let mut packed = Packed {
            facts: from.get(14)?,
            argv: from.get(24)?,
            rest: from.get(31)?,
            ..Packed::default()
        };
        for (at, number) in packed.numbers.iter_mut().enumerate() {
            *number = unsigned(from, 15 + at)?;
        }
        let mut texts: [Option<Rc<str>>; 4] = Default::default();
        for (at, text) in texts.iter_mut().enumerate() {
            if let Some(id) = from.get(25 + at)? {
                *text = Some(self.text(memory, id)?);
            }
        }
        for (to, text) in packed.texts.iter_mut().zip(&texts) {
            *to = text.as_deref();
        }
        for (at, text) in packed.plain.iter_mut().enumerate() {
            *text = from.get_ref(29 + at)?.as_str_or_null()?;
        }
        row.detail = packed.unpack();
        Ok(())
    }

    fn text(&self, memory: &mut Memory, id: i64) -> Sql<Rc<str>> {
        let read = |id| -> Sql<Rc<str>> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT text FROM texts WHERE id = ?1")?;
            statement.query_row([id], |row| row.get(0))
        };
        remembered(&mut memory.texts, id, read)
    }

    fn kind(&self, memory: &mut Memory, id: i64) -> Sql<Rc<str>> {
        remembered(&mut memory.kinds, id, |id| {
            let mut statement = self
                .connection
                .prepare_cached("SELECT kind FROM kinds WHERE id = ?1")?;
            statement.query_row([id], |row| row.get(0))
        })
    }

    /// A path of the number of its folder and its name.
    fn path(
        &self,
        memory: &mut Memory,
        from: &rusqlite::Row<'_>,
        at: usize,
    ) -> Sql<Option<String>> {
        let Some(name) = from.get_ref(at + 1)?.as_str_or_null()? else {
            return Ok(None);
        };
        let dir = match from.get(at)? {
            Some(id) => self.text(memory, id)?,
            None => return Ok(Some(name.to_owned())),
        };
        let mut path = String::with_capacity(dir.len() + name.len());
        path.push_str(&dir);
        path.push_str(name);
        Ok(Some(path))
    }

    fn actor(&self, memory: &mut Memory, id: i64) -> Sql<Rc<Actor>> {
        if let Some(actor) = memory.actors.get(&id) {
            return Ok(Rc::clone(actor));
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT run, agent, pid, start_ns, ppid, uid, comm, exe FROM actors WHERE id = ?1",
        )?;
        let mut rows = statement.query([id])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let actor = Actor {
            run: self.text(memory, row.get(0)?)?,
            agent: self.text(memory, row.get(1)?)?,
            pid: row.get(2)?,
            start_ns: row.get::<_, i64>(3)?.cast_unsigned(),
            ppid: row.get(4)?,
            uid: row.get(5)?,
            comm: self.text(memory, row.get(6)?)?,
            exe: match row.get(7)? {
                Some(id) => Some(self.text(memory, id)?),
                None => None,
            },
        };
        remembered(&mut memory.actors, id, |_| Ok(Rc::new(actor)))
    }

    fn flow(&self, memory: &mut Memory, id: i64) -> Sql<Rc<Flow>> {
        remembered(&mut memory.flows, id, |id| {
            let mut statement = self.connection.prepare_cached(
                "SELECT protocol, direction, local, remote, remote_port, cookie FROM flows WHERE id = ?1",
            )?;
            statement.query_row([id], |row| {
                Ok(Rc::new(Flow {
                    protocol: row.get(0)?,
                    direction: row.get(1)?,
                    local: row.get(2)?,
                    remote: row.get(3)?,
                    remote_port: row.get(4)?,
                    cookie: unsigned(row, 5)?,
                }))
            })
        })
    }
}

/// Whether an error is of a row that cannot be read, while others can.
fn is_hole(error: &anyhow::Error) -> bool {
    use rusqlite::Error;
    match error.downcast_ref::<Error>() {
        Some(Error::SqliteFailure(error, _)) => error.code == rusqlite::ErrorCode::DatabaseCorrupt,
        // What a row refers to is missing, or is something else.
        Some(error) => matches!(
            error,
            Error::QueryReturnedNoRows
                | Error::FromSqlConversionFailure(..)
                | Error::InvalidColumnType(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::Utf8Error(..)
        ),
        None => false,
    }
}

/// A number above 2^63 was stored as a negative one.
fn unsigned(row: &rusqlite::Row<'_>, at: usize) -> Sql<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(at)?.map(i64::cast_unsigned))
}

/// What is remembered of a number, or else read.
fn remembered<T: ?Sized>(
    memory: &mut HashMap<i64, Rc<T>>,
    id: i64,
    read: impl FnOnce(i64) -> Sql<Rc<T>>,
) -> Sql<Rc<T>> {
    if let Some(known) = memory.get(&id) {
        return Ok(Rc::clone(known));
    }
    let new = read(id)?;
    if memory.len() >= REMEMBERED {
        memory.clear();
    }
    memory.insert(id, Rc::clone(&new));
    Ok(new)
}

/// The times of a filter as a condition, and its values.
pub fn times(filter: &Filter) -> (String, Vec<Value>) {
    let mut condition = "1".to_owned();
    let mut values = Vec::new();
    for (part, time) in [
        (" AND time_ns >= ?", filter.since),
        (" AND time_ns <= ?", filter.until),
    ] {
        if let Some(time) = time {
            condition += part;
            values.push(time.into());
        }
    }
    (condition, values)
}

/// The rest of a filter as a condition upon columns of these names, and its values.
pub fn names(filter: &Filter) -> (String, Vec<Value>) {
    let mut condition = String::new();
    let mut values = Vec::new();
    for (column, text) in [("agent", &filter.agent), ("run", &filter.run)] {
        if let Some(text) = text {
            let _ = write!(condition, " AND {column} = ?");
            values.push(text.clone().into());
        }
    }
    if let Some(pid) = filter.pid {
        condition += " AND pid = ?";
        values.push(i64::from(pid).into());
    }
    if !filter.kinds.is_empty() {
        let marks = vec!["?"; filter.kinds.len()].join(",");
        let _ = write!(condition, " AND kind IN ({marks})");
        values.extend(filter.kinds.iter().map(|kind| Value::from(kind.clone())));
    }
    (condition, values)
}
