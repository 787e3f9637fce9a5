//! Settings that a server keeps beside the data: users and functions. Each change has a version of its own, and once it is
//! answered a crash must not take it back, whatever the loss window is.

use std::io;

use crate::resp::{Connection, Reply};

/// The versions that a database may have: users first, then functions. 0: none.
pub type Settings = [u64; SETTINGS];
const SETTINGS: usize = 2;

/// The name of the user, and of the library and its function.
const MARKER: &str = "marker";

/// The versions of one setting that were declared in a round.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    pub answered: u64,
    /// Those that were not answered, or with an error, since then.
    pub tried: Vec<u64>,
}

impl Declared {
    pub fn may_have(&self, version: u64) -> bool {
        version == self.answered || self.tried.contains(&version)
    }
}

/// The settings of one database in a round.
#[derive(Clone, Debug, Default)]
pub struct Declarations([Declared; SETTINGS]);

impl Declarations {
    /// Begins a round with the settings that the last one has left.
    pub fn after(found: Settings) -> Self {
        Self(found.map(|answered| Declared { answered, tried: Vec::new() }))
    }

    /// Declares a version. Returns the request and its reply.
    pub fn declare(
        &mut self,
        connection: &mut Connection,
        setting: usize,
        version: u64,
    ) -> io::Result<(Vec<String>, Reply)> {
        let of = &mut self.0[setting % SETTINGS];
        let words = match setting % SETTINGS {
            0 => ["ACL", "SETUSER", MARKER, "on", "nopass", "resetkeys", &format!("~v{version}"), "+@all"]
                .map(str::to_owned)
                .to_vec(),
            _ => {
                // It can be called on a full disk, too.
                let function = format!(
                    "function_name='{MARKER}', callback=function() return 'v{version}' end, flags={{'no-writes'}}"
                );
                let text = format!("#!lua name={MARKER}\nredis.register_function{{{function}}}");
                ["FUNCTION", "LOAD", "REPLACE", &text].map(str::to_owned).to_vec()
            }
        };
        of.tried.push(version);
        let reply = connection.try_call(&words)?;
        if !reply.is_error() {
            *of = Declared { answered: version, tried: Vec::new() };
        }
        Ok((words, reply))
    }

    /// Whether a crash may have left these settings.
    pub fn allow(&self, found: Settings) -> bool {
        self.0.iter().zip(found).all(|(declared, version)| declared.may_have(version))
    }
}

/// Reads the settings of a connection's database.
pub fn read(connection: &mut Connection) -> io::Result<Settings> {
    let version = |text: &str| text.strip_prefix('v').and_then(|number| number.parse().ok());
    let users = connection.try_call(&["ACL", "LIST"])?;
    let mut versions = users.items().unwrap_or_default().iter().filter_map(|line| {
        let line = String::from_utf8_lossy(line.bytes()?).into_owned();
        let rules = line.strip_prefix("user ")?.strip_prefix(MARKER)?.to_owned();
        rules.split(' ').find_map(|rule| version(rule.strip_prefix('~')?))
    });
    let user = versions.next_back().unwrap_or(0);
    let called = connection.try_call(&["FCALL", MARKER, "0"])?;
    let function = match &called {
        Reply::Line('-', error) if error != "ERR Function not found" => return Err(io::Error::other(error.clone())),
        called => called.bytes().map(String::from_utf8_lossy).and_then(|text| version(&text)),
    };
    Ok([user, function.unwrap_or(0)])
}
