//! The actions of a schedule on a living process.

use std::sync::Arc;

use dormouse_shard::error::Error;
use dormouse_storage::manifest;
use dormouse_types::segment::SLOTS;
use tokio::task::{JoinHandle, yield_now};

use crate::client;
use crate::clock;
use crate::declared::{self, SETTINGS};
use crate::node::{Node, name};
use crate::plan::Action;
use crate::run::Schedule;
use crate::script::Asked;
use crate::state;
use crate::verdict::{compare, excuse, refuse};
use crate::waits;

/// Limit of batches under way at once.
const CLIENTS_MAX: usize = 8;
/// Limit of clients that wait at once.
const BLOCKED_MAX: usize = 6;
/// Parts that a database is cut into so that its manifests have pages.
const PARTS: u16 = 48;
/// Limit of branches.
const BRANCHES_MAX: usize = 4;
/// Expired keys removed at a time.
const EXPIRE_KEYS: usize = 20;

impl Schedule {
    /// A client that watches keys, thinks for a while, and then runs a transaction or discards it.
    pub fn transact(&mut self, node: &Node, at: usize, seed: u64) -> JoinHandle<()> {
        let (keys, asked, turns) = self.extras.transaction(&self.plan.scripts[at]);
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        let limit = self.plan.limits[at];
        tokio::spawn(async move {
            let watched = match client::watch(&database, at, keys, seed, &book).await {
                Ok(watched) => watched,
                Err(error) => return excuse(&disk, &book, at, "a watch", &error),
            };
            for _ in 0..turns {
                yield_now().await;
            }
            let Some(asked) = asked else { return disk.note(format!("{seed:016x} discards")) };
            match client::run(&database, at, &asked, seed, &book, Some(&watched)).await {
                Ok(Ok(replies)) => disk.note(format!("{seed:016x} was answered: {} replies", replies.len())),
                Ok(Err(error)) | Err(error @ Error::OutOfMemory) if error == Error::OutOfMemory => {
                    refuse(&disk, &book, at, limit, &asked);
                }
                Ok(Err(error)) => disk.note(format!("{seed:016x} was refused: {error}")),
                Err(error) => excuse(&disk, &book, at, "a transaction", &error),
            }
        })
    }

    /// Cuts a database so often that its manifests have pages.
    pub fn cut(&self, node: &Node, at: usize) -> JoinHandle<()> {
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        tokio::spawn(async move {
            if let Err(error) = database.awake().await {
                return excuse(&disk, &book, at, "a wake", &error);
            }
            for part in 1..PARTS {
                if let Err(error) = database.split(part * (SLOTS / PARTS)).await {
                    return excuse(&disk, &book, at, "a cut", &error);
                }
            }
            disk.note(format!("database {at} is cut into {PARTS} parts"));
        })
    }

    pub fn ask(&self, node: &Node, at: usize, asked: Vec<Asked>, seed: u64) -> JoinHandle<()> {
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        let limit = self.plan.limits[at];
        tokio::spawn(async move {
            match client::run(&database, at, &asked, seed, &book, None).await {
                Ok(Ok(replies)) => {
                    disk.note(format!("answered: {} replies of database {at}", replies.len()));
                    let halfway = replies.iter().find(|reply| reply.contains("was not in memory"));
                    halfway.into_iter().for_each(|reply| book.lock().fail(reply.clone()));
                }
                Ok(Err(error)) | Err(error @ Error::OutOfMemory) if error == Error::OutOfMemory => {
                    refuse(&disk, &book, at, limit, &asked);
                }
                Ok(Err(error)) => disk.note(format!("refused: {error}")),
                Err(error) => excuse(&disk, &book, at, "a command", &error),
            }
        })
    }

    pub async fn act(&mut self, action: Action, node: &Node, tasks: &mut Vec<(Action, JoinHandle<()>)>) {
        let at = self.chance.below(node.databases.len() as u64) as usize;
        let database = Arc::clone(&node.databases[at]);
        let (book, disk) = (Arc::clone(&self.book), Arc::clone(&self.disk));
        let draw = self.chance.draw();
        let running = |which: Action| tasks.iter().filter(|(action, _)| *action == which).count();
        match action {
            Action::Ask => {
                if running(Action::Ask) < CLIENTS_MAX {
                    let mut asked = self.plan.scripts[at].batch(&mut self.chance);
                    self.extras.add_to(&mut asked, &self.plan.scripts[at]);
                    tasks.push((action, self.ask(node, at, asked, draw)));
                }
            }
            Action::Deliver => {
                let room = CLIENTS_MAX.saturating_sub(running(action)) as u64;
                let (asked, copies) = self.extras.delivery(at, &self.plan.scripts[at]);
                for copy in 0..copies.min(room) {
                    tasks.push((action, self.ask(node, at, vec![asked.clone()], draw ^ copy)));
                }
            }
            Action::Transact => {
                if running(Action::Transact) < CLIENTS_MAX {
                    tasks.push((action, self.transact(node, at, draw)));
                }
            }
            Action::Block => {
                if running(action) < BLOCKED_MAX {
                    let (asked, turns) = self.extras.blocking(&self.plan.scripts[at]);
                    let limit = self.plan.limits[at];
                    tasks.push((
                        action,
                        tokio::spawn(async move {
                            match waits::block(&database, at, &asked, draw, &book, turns).await {
                                Ok(is_served) => disk.note(format!("{asked:?} was served: {is_served}")),
                                Err(Error::OutOfMemory) => refuse(&disk, &book, at, limit, &[asked]),
                                Err(error) => excuse(&disk, &book, at, "a blocking command", &error),
                            }
                        }),
                    ));
                }
            }
            Action::Evict => {
                if running(action) > 0 {
                    return;
                }
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        for chore in database.chores() {
                            while database.work_at(&chore).await {
                                yield_now().await;
                            }
                        }
                    }),
                ));
            }
            Action::Branch => {
                if running(action) > 0 || book.lock().branches.names().count() >= BRANCHES_MAX {
                    return;
                }
                let name = format!("{}.{draw:016x}", name(at));
                disk.note(format!("branch {name}"));
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let begun = book.lock().batches();
                        match database.branch(&name, None).await {
                            Ok(()) => {
                                disk.note(format!("branch {name} after batch {begun}"));
                                book.lock().branched(name, at, begun);
                            }
                            Err(error) => excuse(&disk, &book, at, "a branch", &error),
                        }
                    }),
                ));
            }
            Action::Return => {
                if running(action) > 0 || book.lock().branches.names().count() >= BRANCHES_MAX {
                    return;
                }
                let Some(at_ms) = book.lock().moment(at, draw) else { return };
                let name = format!("{}.{draw:016x}", name(at));
                disk.note(format!("branch {name} of the moment {}", at_ms - clock::START_MS));
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        match database.branch_at(&name, None, at_ms).await {
                            Ok(()) => {
                                disk.note(format!("branch {name} is made"));
                                book.lock().returned(name, at, at_ms);
                            }
                            Err(error @ (Error::MomentLost(_) | Error::NoHistory)) => disk.note(error.to_string()),
                            Err(error) => excuse(&disk, &book, at, "a branch of a moment", &error),
                        }
                    }),
                ));
            }
            Action::Delete => {
                if running(action) > 0 {
                    return;
                }
                let prefix = format!("{}.", name(at));
                let all: Vec<String> = book.lock().branches.names().filter(|name| name.starts_with(&prefix)).collect();
                let Some(name) = all.get((draw % all.len().max(1) as u64) as usize).cloned() else { return };
                disk.note(format!("delete branch {name}"));
                // From here on it may be there or not.
                book.lock().branches.forget(&name);
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let deleted = manifest::delete_database(&database.engine.store, &name).await;
                        let collected = match deleted {
                            Ok(()) => database.collect_garbage().await,
                            Err(error) => Err(Error::Store(error.to_string())),
                        };
                        match collected {
                            Ok(()) => disk.note(format!("branch {name} is deleted")),
                            Err(error) => excuse(&disk, &book, at, "a deletion", &error),
                        }
                    }),
                ));
            }
            Action::Go => {
                for _ in 0..1 + draw % 12 {
                    yield_now().await;
                }
            }
            Action::Flush => {
                let outcome = node.log.flush();
                let end = node.flushed();
                let failed = outcome.err().map(|error| format!(", {error}")).unwrap_or_default();
                disk.note(format!("flush: durable up to {end}{failed}"));
                if draw.is_multiple_of(3)
                    && let Ok(removed @ 1..) = node.log.remove_settled()
                {
                    disk.note(format!("{removed} log files removed"));
                }
            }
            Action::Answer => {
                disk.answer_one();
            }
            Action::Checkpoint | Action::Sleep => {
                if running(action) > 1 {
                    return;
                }
                disk.note(format!("{action:?} of database {at}"));
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let begun = book.lock().batches();
                        let done = match action {
                            Action::Sleep => database.sleep().await.map(|slept| format!("{slept:?}")),
                            _ => database.checkpoint().await.map(|report| format!("{report:?}")),
                        };
                        match done {
                            Ok(report) => {
                                book.lock().cover(at, begun);
                                disk.note(format!("{action:?} of database {at} after batch {begun}: {report}"));
                            }
                            Err(error) => excuse(&disk, &book, at, "a checkpoint", &error),
                        }
                    }),
                ));
            }
            Action::Split | Action::Merge | Action::LoadAll => {
                if running(action) > 1 {
                    return;
                }
                disk.note(format!("{action:?} of database {at}"));
                // If a database is cut at few slots, cut places are merged again.
                let chosen = (draw % 16384) as u16;
                let slot = chosen & if self.extras.features.full_disk { !0xfff } else { !0 };
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let done = match action {
                            Action::Split => database.split(slot).await.map(drop),
                            Action::Merge => {
                                let firsts = database.topology().map(|topology| topology.firsts.clone());
                                let firsts = firsts.unwrap_or_else(|| vec![0]);
                                database.merge(firsts[usize::from(chosen) % firsts.len()]).await.map(drop)
                            }
                            _ => database.load_all().await,
                        };
                        match done {
                            Ok(()) => disk.note(format!("{action:?} of database {at} done")),
                            Err(error) => excuse(&disk, &book, at, "a change of shards", &error),
                        }
                    }),
                ));
            }
            Action::Expire => database.expire_slice(EXPIRE_KEYS),
            Action::Wait => clock::advance(1 + draw % [10, 200, 1500][(draw >> 32) as usize % 3]),
            Action::Declare => {
                let window = self.plan.choices[draw as usize % self.plan.choices.len()];
                disk.note(format!("loss window {window} for database {at}"));
                self.plan.windows[at] = window;
                database.shared.journal.declare(window);
                book.lock().declare(at, node.log.end());
                let journal = &database.shared.journal;
                if database.is_awake() && window != dormouse_storage::log::Window::None && !journal.is_covered() {
                    tasks.push((
                        action,
                        tokio::spawn(async move {
                            let begun = book.lock().batches();
                            match database.checkpoint().await {
                                Ok(_) => book.lock().cover(at, begun),
                                Err(error) => excuse(&disk, &book, at, "a checkpoint", &error),
                            }
                        }),
                    ));
                }
            }
            Action::DeclareSettings => {
                if running(action) > 0 {
                    return;
                }
                let setting = SETTINGS[draw as usize % SETTINGS.len()];
                // A few changes remove it.
                let version = if draw.is_multiple_of(7) { 0 } else { draw % 1_000_000 };
                disk.note(format!("{setting:?} {version} for database {at}"));
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        book.lock().change_setting(at, setting, version, None);
                        let declared = declared::declare(&database, setting, version).await;
                        book.lock().change_setting(at, setting, version, Some(declared.is_ok()));
                        match declared {
                            Ok(()) => disk.note(format!("{setting:?} {version} is declared")),
                            Err(error) => excuse(&disk, &book, at, "a declaration", &error),
                        }
                    }),
                ));
            }
            Action::Compare => {
                if running(action) > 0 {
                    return;
                }
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        match state::awake(&database).await {
                            Ok(found) => {
                                let mut book = book.lock();
                                if book.is_open
                                    && let Err(problem) = compare(&book, at, &found)
                                {
                                    book.fail(problem);
                                }
                            }
                            Err(error) => excuse(&disk, &book, at, "a load", &error),
                        }
                    }),
                ));
            }
            Action::Fill => {
                let is_full = disk.with(|state| {
                    state.is_full = !state.is_full;
                    state.is_full
                });
                disk.note(format!("the disk is {}", if is_full { "full" } else { "not full any more" }));
            }
            Action::Crash | Action::Restart => {}
        }
    }
}
