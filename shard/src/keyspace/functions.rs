//! The libraries of functions of a database.
//!
//! The texts are what is kept; a library is loaded when one of its functions is needed first, which tells their names.
//! A set of libraries never changes: a change publishes another one, as soon as the store has it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use dormouse_scripting::Library;
use dormouse_scripting::survey::CallSite;
use dormouse_scripting::vm::{self, Registered};

use crate::error::{Error, Result};

/// Bytes of the texts of a database's libraries: each manifest holds them.
pub const TEXTS_BYTES_MAX: usize = 1 << 20;

/// The libraries of a database.
#[derive(Debug, Default)]
pub struct Functions(ArcSwap<Libraries>);

impl Functions {
    pub fn get(&self) -> Arc<Libraries> {
        self.0.load_full()
    }

    pub fn set(&self, libraries: Libraries) {
        self.0.store(Arc::new(libraries));
    }
}

/// A set of libraries, by name.
#[derive(Debug, Clone, Default)]
pub struct Libraries {
    pub by_name: BTreeMap<Box<str>, Arc<LoadedLibrary>>,
}

/// A library, with its functions once it has been loaded.
pub struct LoadedLibrary {
    pub library: Arc<Library>,
    /// The functions that may run on a worker. See [`crate::commands::scripting`].
    plain: Vec<Box<str>>,
    functions: OnceLock<Result<Vec<Registered>>>,
}

impl fmt::Debug for LoadedLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoadedLibrary({})", self.library.name)
    }
}

impl LoadedLibrary {
    /// `is_plain` tells whether a function with these calls may run on a worker.
    pub fn new(library: Library, is_plain: fn(&[CallSite]) -> bool) -> Self {
        let plain = library.calls.iter().filter(|(_, calls)| is_plain(calls)).map(|(name, _)| name.clone()).collect();
        Self { library: Arc::new(library), plain, functions: OnceLock::new() }
    }

    fn has_plain(&self, name: &[u8]) -> bool {
        self.plain.iter().any(|plain| plain.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its functions, in the order in which it registers them.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn functions(&self) -> Result<&[Registered]> {
        let loaded =
            self.functions.get_or_init(|| vm::load(&self.library).map_err(|problem| Error::Text(problem.into())));
        loaded.as_deref().map_err(Clone::clone)
    }
}

impl Libraries {
    /// The function `name`, in letters of either case, with its library, and whether it may run on a worker. To find one
    /// that may, no library is loaded that others are in.
    pub fn find(&self, name: &[u8]) -> Option<(&LoadedLibrary, &Registered, bool)> {
        let plain = self.by_name.values().filter(|library| library.has_plain(name)).map(|library| (library, true));
        let all = self.by_name.values().map(|library| (library, false));
        plain.chain(all).find_map(|(library, is_plain)| {
            let functions = library.functions().ok()?;
            let found = functions.iter().find(|function| function.name.as_bytes().eq_ignore_ascii_case(name))?;
            Some((&**library, found, is_plain))
        })
    }

    /// Whether the function `name` may run on a worker. Loads no library.
    pub fn is_plain(&self, name: &[u8]) -> bool {
        self.by_name.values().any(|library| library.has_plain(name))
    }

    /// Adds a library. `restored`: from a payload, for which Redis words an error differently.
    ///
    /// # Errors
    /// When it or one of its functions exists already, unless it replaces the library; or when it does not fit.
    pub fn add(&mut self, library: Arc<LoadedLibrary>, replace: bool, restored: bool) -> Result<()> {
        let name = library.library.name.clone();
        if !replace && self.by_name.contains_key(&name) {
            let shown = if restored { name.to_string() } else { format!("'{name}'") };
            return Err(Error::Text(format!("ERR Library {shown} already exists").into()));
        }
        let before = self.by_name.remove(&name);
        let functions = library.functions()?;
        let taken = functions.iter().find(|function| self.find(function.name.as_bytes()).is_some());
        let bytes = self.bytes() + library.library.text.len();
        let problem = match taken {
            Some(function) => Some(format!("ERR Function {} already exists", function.name)),
            None if bytes > TEXTS_BYTES_MAX => Some("ERR the libraries of a database may have 1mb of text".to_owned()),
            None => None,
        };
        if let Some(problem) = problem {
            self.by_name.extend(before.map(|before| (name, before)));
            return Err(Error::Text(problem.into()));
        }
        self.by_name.insert(name, library);
        Ok(())
    }

    /// Bytes of the texts.
    pub fn bytes(&self) -> usize {
        self.by_name.values().map(|library| library.library.text.len()).sum()
    }
}
