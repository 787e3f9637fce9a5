//! A long random script of commands, the same for the same seed.
//!
//! 1. A step begins as a template of [`templates`], filled with words from small pools: few keys, so that types
//!    collide, few members, so that sets overlap, and numbers at the edges.
//! 2. Some commands are then spoiled: a word dropped, doubled, swapped, or replaced by junk.
//! 3. Some steps need more than one command: a transaction, a second connection that writes to a watched key, an
//!    iteration to its end, a random draw with the members that it draws from.
//!
//! Nothing in a script depends on its speed: a key's expiry is hours away, or past, and no two are alike.

mod pools;
mod templates;

use crate::Kind;
use crate::resp::Words;
use pools::Pools;
use templates::Template;

pub enum Step {
    Command(Words),
    /// `MULTI`, the commands, then `EXEC` or `DISCARD`.
    Transaction {
        commands: Vec<Words>,
        end: &'static str,
    },
    /// `WATCH`, another connection's command, then a transaction of one command.
    Watched {
        watch: Words,
        other: Words,
        command: Words,
    },
    /// A command that draws at random, between one that lists the candidates and one that evens out the remaining ones.
    Draw {
        list: Words,
        draw: Words,
        after: Words,
    },
    /// A SCAN command with a cursor of 0 at the word `cursor`, to be followed to its end.
    Iteration {
        command: Words,
        cursor: usize,
    },
    /// A command that lets its key expire at once. The script continues when the key is gone.
    Expiry {
        key: Vec<u8>,
        command: Words,
    },
    /// A comparison of all data.
    Inventory,
}

/// The longest wait of a blocking command.
const WAIT_SECONDS_MAX: f64 = 0.01;

pub struct Script {
    random: Random,
    pools: Pools,
    templates: Vec<Template>,
    total_weight: u32,
    emitted: usize,
}

impl Script {
    /// A script of commands that every server has.
    pub fn new(seed: u64) -> Self {
        Self::of(seed, None)
    }

    /// A script that also has the newer commands of `peer`.
    pub fn beside(seed: u64, peer: Kind) -> Self {
        Self::of(seed, Some(peer))
    }

    fn of(seed: u64, peer: Option<Kind>) -> Self {
        let templates = templates::all(peer);
        let total_weight = templates.iter().map(|template| template.weight).sum();
        Self { random: Random::new(seed), pools: Pools::default(), templates, total_weight, emitted: 0 }
    }

    fn transaction(&mut self) -> Step {
        let commands = (0..self.random.below(7)).map(|_| self.command()).collect();
        Step::Transaction { commands, end: if self.random.one_in(6) { "DISCARD" } else { "EXEC" } }
    }

    fn watched(&mut self) -> Step {
        let keys = 1 + self.random.below(3);
        let watch = std::iter::once(b"WATCH".to_vec()).chain((0..keys).map(|_| self.word("key"))).collect();
        Step::Watched { watch, other: self.command(), command: self.command() }
    }

    fn iteration(&mut self) -> Step {
        let template = self.random.pick(&templates::ITERATIONS);
        let command = Template::parse(1, template).fill(&mut self.random, &mut self.pools);
        Step::Iteration { cursor: if command[0] == b"SCAN" { 1 } else { 2 }, command }
    }

    fn draw(&mut self) -> Step {
        let (list, draw, pool) = *self.random.pick(&templates::DRAWS);
        let key = self.word(pool);
        let count = self.random.pick(&["1", "2", "5", "0", "1000", "-1", "-7"]).as_bytes().to_vec();
        let fill = |template: &str| -> Words {
            let word = |word| match word {
                "<key>" => key.clone(),
                "<count>" => count.clone(),
                _ => Vec::from(word),
            };
            template.split_whitespace().map(word).collect()
        };
        let after = if draw.starts_with("SPOP") { "DEL <key>" } else { "EXISTS <key>" };
        Step::Draw { list: fill(list), draw: fill(draw), after: fill(after) }
    }

    fn expiry(&mut self) -> Step {
        let key = self.word("key");
        let template = self.random.pick(&templates::EXPIRIES);
        let fill = |word| if word == "<key>" { key.clone() } else { Vec::from(word) };
        Step::Expiry { command: template.split_whitespace().map(fill).collect(), key }
    }

    /// Returns one command from the templates, perhaps spoiled.
    fn command(&mut self) -> Words {
        let mut draw = self.random.below(self.total_weight as usize) as u32;
        let template = self.templates.iter().find(|template| match draw.checked_sub(template.weight) {
            Some(rest) => {
                draw = rest;
                false
            }
            None => true,
        });
        let mut words = template.expect("the draw is below the total").fill(&mut self.random, &mut self.pools);
        if self.random.one_in(16) {
            self.spoil(&mut words);
            shorten_wait(&mut words);
        }
        if self.random.one_in(8) {
            words[0].make_ascii_lowercase();
        }
        words
    }

    fn spoil(&mut self, words: &mut Words) {
        // A lexicographic key must not get a second score. After Redis 7.0, ZRANK got an optional word, and COMMAND
        // GETKEYS another error for a command without arguments.
        if words[0].ends_with(b"RANK") || words[0] == b"COMMAND" || words.iter().any(|word| word.starts_with(b"x")) {
            return;
        }
        let place = 1 + self.random.below(words.len());
        let Some(word) = words.get(place).cloned() else {
            return words.push(self.word("junk"));
        };
        // Swapped words could turn a value into a number of seconds, and a key would expire while the script runs.
        let sets_expiry = words[0] == b"RESTORE" || words[0].windows(2).any(|pair| pair == b"EX" || pair == b"ET");
        match self.random.below(if sets_expiry { 3 } else { 4 }) {
            0 => _ = words.remove(place),
            1 => words.insert(place, word),
            2 => words[place] = self.word("junk"),
            _ => {
                let other = 1 + self.random.below(words.len() - 1);
                words.swap(place, other);
            }
        }
    }

    fn word(&mut self, pool: &str) -> Vec<u8> {
        self.pools.word(pool, &mut self.random)
    }
}

/// Bounds the wait of a blocking command whose timeout was spoiled: `0` waits for ever, and nothing else writes meanwhile.
fn shorten_wait(words: &mut Words) {
    let name = words[0].to_ascii_uppercase();
    let place = match &name[..] {
        b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX" | b"BLMOVE" | b"BRPOPLPUSH" => words.len() - 1,
        b"BLMPOP" | b"BZMPOP" => 1,
        b"BLMOVEM" => 5,
        _ => return,
    };
    let Some(timeout) = words.get_mut(place).filter(|_| place > 0) else { return };
    let seconds = std::str::from_utf8(timeout).ok().and_then(|text| text.parse::<f64>().ok());
    if seconds.is_some_and(|seconds| seconds == 0.0 || seconds > WAIT_SECONDS_MAX) {
        *timeout = b"0.001".to_vec();
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.emitted += 1;
        if self.emitted.is_multiple_of(1000) {
            return Some(Step::Inventory);
        }
        Some(match self.random.below(400) {
            0..12 => self.transaction(),
            12..18 => self.watched(),
            18..26 => self.iteration(),
            26..36 => self.draw(),
            36 => self.expiry(),
            _ => Step::Command(self.command()),
        })
    }
}

/// Random choices, the same for the same seed.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.usize(..limit)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sends a script waits for each reply before it sends what would end the wait.
    #[test]
    fn no_command_waits_for_long() {
        let mut waits = 0;
        for seed in 0..20 {
            for step in Script::new(seed).take(10_000) {
                let Step::Command(words) = step else { continue };
                let name = String::from_utf8_lossy(&words[0]).to_uppercase();
                let timeout = match &name[..] {
                    "BLMPOP" | "BZMPOP" => words.get(1),
                    "BLMOVEM" => words.get(5),
                    "BLPOP" | "BRPOP" | "BZPOPMIN" | "BZPOPMAX" | "BLMOVE" | "BRPOPLPUSH" => words[1..].last(),
                    _ => continue,
                };
                waits += 1;
                let seconds = timeout.and_then(|word| String::from_utf8_lossy(word).parse::<f64>().ok());
                let is_long = seconds.is_some_and(|seconds| seconds == 0.0 || seconds > 0.01);
                assert!(!is_long, "seed {seed}: {name} {timeout:?}");
            }
        }
        assert!(waits > 1000, "{waits}");
    }
}
