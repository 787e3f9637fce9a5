//! The commands of Redis 7.2, Redis 8.10.2 and Valkey 9.1.2, as the servers describe them.
//!
//! The columns of `peers.tsv`: the name, the servers, then those of [`Facts`]. A command has several lines if the servers
//! describe it differently.

use std::collections::BTreeMap;

/// The servers in the order in which they are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Redis7,
    Redis8,
    Valkey9,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Redis7, Peer::Redis8, Peer::Valkey9];

    fn code(self) -> &'static str {
        match self {
            Peer::Redis7 => "redis7",
            Peer::Redis8 => "redis8",
            Peer::Valkey9 => "valkey9",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Peer::Redis7 => "Redis 7.2",
            Peer::Redis8 => "Redis 8.10",
            Peer::Valkey9 => "Valkey 9.1",
        }
    }
}

/// A command's facts. Lists of words are in alphabetical order with commas between them; an empty one is `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub group: String,
    pub since: String,
    pub arity: String,
    pub flags: String,
    /// The first key, the last key, and the step.
    pub range: String,
    pub categories: String,
    pub tips: String,
    /// The key specs: `flags begin: find (notes)` each.
    pub keys: String,
}

impl Facts {
    pub fn columns(&self) -> [(&'static str, &str); 8] {
        [
            ("group", &self.group),
            ("since", &self.since),
            ("arity", &self.arity),
            ("flags", &self.flags),
            ("range", &self.range),
            ("categories", &self.categories),
            ("tips", &self.tips),
            ("keys", &self.keys),
        ]
    }
}

pub struct Peers(BTreeMap<&'static str, Vec<(Peer, Facts)>>);

impl Peers {
    pub fn read() -> Self {
        let mut commands: BTreeMap<&str, Vec<(Peer, Facts)>> = BTreeMap::new();
        for line in include_str!("peers.tsv").lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [name, servers, ref rest @ ..] = columns[..] else { panic!("too few columns: {line}") };
            let [group, since, arity, flags, range, categories, tips, keys]: [String; 8] =
                rest.iter().map(|text| text.to_string()).collect::<Vec<_>>().try_into().unwrap();
            let facts = Facts { group, since, arity, flags, range, categories, tips, keys };
            let described = commands.entry(name).or_default();
            let named = Peer::ALL.into_iter().filter(|peer| servers.split(',').any(|code| code == peer.code()));
            described.extend(named.map(|peer| (peer, facts.clone())));
            described.sort_by_key(|(peer, _)| *peer);
        }
        Self(commands)
    }

    /// Every name, such as `client|list`, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    pub fn of(&self, name: &str, peer: Peer) -> Option<&Facts> {
        self.0.get(name)?.iter().find(|(of, _)| *of == peer).map(|(_, facts)| facts)
    }

    /// The facts of the first server that has the command.
    pub fn first(&self, name: &str) -> Option<&Facts> {
        self.0.get(name)?.first().map(|(_, facts)| facts)
    }
}
