use std::collections::HashSet;

use super::*;
use crate::{
    event::Tally,
    store::{
        Writer,
        tests::{WALL, exit, row, until},
    },
};

const DAY: u64 = 86_400_000_000_000;

/// Stores one event for each time, and waits until all are stored.
fn store(dir: &Path, times: &[u64]) {
    let writer = Writer::open(dir).unwrap();
    let store = writer.begin("a", &["sh".to_owned()], WALL);
    for time in times {
        store.event(row(&exit(*time), Some("/bin/sh")));
    }
    store.finish(Some(0), None, &Tally::default());
    assert_eq!(writer.finish(), None);
}

fn events(batch: &Batch) -> Vec<i64> {
    let Rows::Events(rows) = &batch.rows else {
        panic!("events were expected: {batch:?}");
    };
    let wall = i64::try_from(WALL).unwrap();
    rows.iter().map(|row| row.what.time_ns - wall).collect()
}

/// Delivers everything that is there; the batches.
fn drain(follower: &mut Follower, max_rows: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = follower.next(max_rows).unwrap() {
        follower.advance(&batch).unwrap();
        batches.push(batch);
    }
    batches
}

#[test]
fn all_tables_and_days_come_once_and_what_is_new_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[1, 2, 3, DAY + 1]);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let behind = follower.behind().unwrap();
    // The run is introduced in three files: of the two days, and of today, where it begins and ends.
    assert_eq!((behind.rows, behind.lost), (4 + 3 + 1, 0));
    assert_eq!(behind.oldest_ns, Some(i64::try_from(WALL + 1).unwrap()));
    assert!(behind.seconds() > 0.0);

    let batches = drain(&mut follower, 2);
    let tables: Vec<Table> = batches.iter().map(|batch| batch.range.table).collect();
    let expected = [
        Table::Runs,
        Table::Runs,
        Table::Runs,
        Table::Ends,
        Table::Events,
        Table::Events,
        Table::Events,
    ];
    assert_eq!(tables, expected);
    let times: Vec<Vec<i64>> = batches[4..].iter().map(events).collect();
    assert_eq!(
        times,
        [vec![1, 2], vec![3], vec![i64::try_from(DAY).unwrap() + 1]]
    );
    let tokens: HashSet<String> = batches.iter().map(|b| b.range.to_string()).collect();
    assert_eq!(tokens.len(), batches.len());
    let Rows::Ends(ends) = &batches[3].rows else {
        panic!("{batches:?}");
    };
    assert_eq!(
        (ends[0].what.stored, ends[0].what.exit_status),
        (4, Some(0))
    );
    assert_eq!(follower.behind().unwrap(), Behind::default());

    // Rows that come late to the first day, from another process as it were.
    store(dir.path(), &[4, 5]);
    drop(follower);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let late: Vec<Vec<i64>> = drain(&mut follower, 100)
        .iter()
        .filter(|batch| batch.range.table == Table::Events)
        .map(events)
        .collect();
    assert_eq!(late, [vec![4, 5]]);
}

#[test]
fn a_batch_comes_again_by_the_same_token_until_it_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[1, 2, 3]);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let first = loop {
        let batch = follower.next(2).unwrap().unwrap();
        if batch.range.table == Table::Events {
            break batch;
        }
        follower.advance(&batch).unwrap();
    };
    // More rows, another limit, a new process: the same batch.
    store(dir.path(), &[4]);
    drop(follower);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let again = follower.next(1000).unwrap().unwrap();
    assert_eq!((&again.range, &again.rows), (&first.range, &first.rows));
    assert_eq!(events(&again), [1, 2]);
    follower.advance(&again).unwrap();
    assert!(
        follower.advance(&again).is_err(),
        "it is not handed out any more"
    );
    let rest: Vec<i64> = drain(&mut follower, 1000)
        .iter()
        .filter(|batch| batch.range.table == Table::Events)
        .flat_map(events)
        .collect();
    assert_eq!(rest, [3, 4]);
}

#[test]
fn followers_do_not_know_of_each_other_and_one_name_is_one_process() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[1]);
    let mut one = Follower::open(dir.path(), "one").unwrap();
    assert!(!drain(&mut one, 10).is_empty());
    let mut two = Follower::open(dir.path(), "two").unwrap();
    assert!(!drain(&mut two, 10).is_empty());
    let error = Follower::open(dir.path(), "one").err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    assert!(Follower::open(dir.path(), "../x").is_err());
}

#[test]
fn what_is_removed_before_it_is_delivered_is_counted_and_a_new_file_is_another() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[1, 2, 3]);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let pending = loop {
        let batch = follower.next(2).unwrap().unwrap();
        if batch.range.table == Table::Events {
            break batch;
        }
        follower.advance(&batch).unwrap();
    };
    let file = dir.path().join("agentwatch-2026-11-18.db");
    fs::remove_file(&file).unwrap();
    // The same day again: its ids begin anew.
    store(dir.path(), &[7, 8]);
    let batches = drain(&mut follower, 10);
    let new: Vec<&Batch> = batches
        .iter()
        .filter(|batch| batch.range.table == Table::Events)
        .collect();
    assert_eq!(events(new[0]), [7, 8]);
    assert_ne!(new[0].range.file, pending.range.file);
    assert_eq!(follower.behind().unwrap().lost, 3);
    assert!(
        follower.warnings.iter().any(|said| said.contains("3 rows")),
        "{:?}",
        follower.warnings
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(
        follower.behind().unwrap().lost,
        3,
        "all of it was delivered"
    );
}

#[test]
fn two_writers_at_once_and_nothing_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let writers: Vec<Writer> = (0..2).map(|_| Writer::open(dir.path()).unwrap()).collect();
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let mut seen = Vec::new();
    let threads: Vec<_> = writers
        .into_iter()
        .enumerate()
        .map(|(n, writer)| {
            std::thread::spawn(move || {
                let store = writer.begin(&format!("a{n}"), &[], WALL);
                for i in 0..5000 {
                    store.event(row(&exit(i * 2 + n as u64), None));
                    if i % 500 == 0 {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
                store.finish(None, None, &Tally::default());
                assert_eq!(writer.finish(), None);
            })
        })
        .collect();
    let mut look = |seen: &mut Vec<i64>| {
        for batch in drain(&mut follower, 700) {
            if batch.range.table == Table::Events {
                seen.extend(events(&batch));
            }
        }
    };
    until("both are done", || {
        look(&mut seen);
        threads.iter().all(std::thread::JoinHandle::is_finished)
    });
    for thread in threads {
        thread.join().unwrap();
    }
    look(&mut seen);
    seen.sort_unstable();
    assert_eq!(seen, (0..10_000).collect::<Vec<i64>>());
}

#[test]
fn a_damaged_file_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[1]);
    fs::write(dir.path().join("agentwatch-2020-01-01.db"), [7; 5000]).unwrap();
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let batches = drain(&mut follower, 10);
    assert_eq!(events(batches.last().unwrap()), [1]);
    assert!(
        follower
            .warnings
            .iter()
            .any(|said| said.contains("2020-01-01.db is damaged")),
        "{:?}",
        follower.warnings
    );
}
