//! A user: passwords, and one selector or more. A request is permitted if any selector permits all of it.

use std::sync::Arc;

use dormouse_protocol::Request;

use super::catalogue::{Catalogue, Subject};
use super::denial::Denial;
use super::password::PasswordHash;
use super::rule_error::RuleError;
pub use super::selector::has_spaces;
use super::selector::{RulesForm, Selector};

/// The user of connections that present no name.
pub const DEFAULT_USER: &[u8] = b"default";

/// Never changed once published: a change makes another one with the same identity.
#[derive(Clone, Debug)]
pub struct User {
    pub name: Box<[u8]>,
    /// Tells it from an earlier user of the same name.
    pub identity: u64,
    pub is_enabled: bool,
    /// Any password is right.
    pub is_nopass: bool,
    skips_sanitizing: bool,
    passwords: Vec<PasswordHash>,
    /// The selector of the rules outside parentheses.
    root: Selector,
    selectors: Vec<Selector>,
    /// The permissions of the connection's token: a request needs those of both.
    bound: Option<Arc<User>>,
    /// The beginning of the receipts that it may leave or find.
    receipts: Box<[u8]>,
}

impl User {
    /// A disabled user without any right.
    pub fn new(name: &[u8], identity: u64, catalogue: &Catalogue) -> Self {
        Self {
            name: name.into(),
            identity,
            is_enabled: false,
            is_nopass: false,
            skips_sanitizing: false,
            passwords: Vec::new(),
            root: Selector::new(catalogue),
            selectors: Vec::new(),
            bound: None,
            receipts: Box::default(),
        }
    }

    /// Limits it to receipts that begin with `prefix`.
    pub fn limit_receipts(&mut self, prefix: &[u8]) {
        self.receipts = prefix.into();
    }

    /// The same user, permitted only what `bound` permits too.
    pub fn within(&self, bound: Arc<User>) -> Self {
        Self { bound: Some(bound), ..self.clone() }
    }

    /// Applies one rule.
    ///
    /// # Errors
    /// When the rule makes no sense; nothing has changed.
    pub fn apply(&mut self, rule: &[u8], catalogue: &Catalogue) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        let starts_anew = is("reset");
        match rule {
            [] => {}
            _ if is("on") => self.is_enabled = true,
            _ if is("off") => self.is_enabled = false,
            _ if is("skip-sanitize-payload") => self.skips_sanitizing = true,
            _ if is("sanitize-payload") => self.skips_sanitizing = false,
            _ if is("nopass") => self.set_passwords(true),
            _ if is("resetpass") => self.set_passwords(false),
            _ if is("clearselectors") => self.selectors.clear(),
            _ if starts_anew => *self = Self::new(&self.name, self.identity, catalogue),
            [b'>', password @ ..] => self.add_password(PasswordHash::of(password)),
            [b'#', hash @ ..] => self.add_password(PasswordHash::parse(hash).ok_or(RuleError::NotAHash)?),
            [b'<', password @ ..] => self.remove_password(PasswordHash::of(password))?,
            [b'!', hash @ ..] => self.remove_password(PasswordHash::parse(hash).ok_or(RuleError::NotAHash)?)?,
            [b'(', rules @ .., b')'] => {
                let mut selector = Selector::new(catalogue);
                let mut rules = rules.split(u8::is_ascii_whitespace).filter(|rule| !rule.is_empty());
                rules.try_for_each(|rule| selector.apply(rule, catalogue))?;
                self.selectors.push(selector);
            }
            rule => self.root.apply(rule, catalogue)?,
        }
        Ok(())
    }

    fn set_passwords(&mut self, nopass: bool) {
        self.is_nopass = nopass;
        self.passwords.clear();
    }

    fn add_password(&mut self, hash: PasswordHash) {
        self.is_nopass = false;
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
    }

    fn remove_password(&mut self, hash: PasswordHash) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|known| *known == hash).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(at);
        Ok(())
    }

    /// Whether a password with this hash is one of the user's. It takes equally long for each, but longer for more.
    pub fn has_password(&self, hash: PasswordHash) -> bool {
        hash.is_among(&self.passwords)
    }

    pub fn passwords(&self) -> &[PasswordHash] {
        &self.passwords
    }

    pub fn root(&self) -> &Selector {
        &self.root
    }

    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    fn all_selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// Whether no request needs to be checked.
    pub fn is_unrestricted(&self) -> bool {
        self.bound.is_none() && self.all_selectors().any(Selector::is_unrestricted)
    }

    /// Checks a request that sees the logical database `select`: the one function that decides what a user may do.
    ///
    /// # Errors
    /// The denial.
    pub fn check(&self, subject: &Subject, request: Request<'_>, select: u8) -> Result<(), Denial> {
        if let Some(bound) = &self.bound {
            bound.check(subject, request, select)?;
        }
        if let Some(receipt) = subject.row.receipt
            && !request.get(receipt).is_some_and(|name| name.starts_with(&self.receipts))
        {
            return Err(Denial::Key(receipt));
        }
        let mut denial = Denial::Command;
        let mut is_permitted = false;
        let unnamed = subject.row.unnamed.and_then(|unnamed| unnamed(request));
        for selector in self.all_selectors() {
            match selector.check(subject, request, select) {
                Ok(()) if unnamed.is_none() || selector.reads_all_keys() => return Ok(()),
                Ok(()) => is_permitted = true,
                Err(denied) => denial = denial.max(denied),
            }
        }
        Err(unnamed.filter(|_| is_permitted).map_or(denial, Denial::UnnamedKeys))
    }

    /// Whether it is as in a new database.
    pub fn is_initial(&self) -> bool {
        &*self.name == DEFAULT_USER
            && self.is_enabled
            && self.is_nopass
            && self.root.is_unrestricted()
            && self.selectors.is_empty()
    }

    /// Whether it may go on listening to a channel, or to exactly this pattern.
    pub fn may_use_channel(&self, name: &[u8], is_pattern: bool) -> bool {
        self.bound.as_ref().is_none_or(|bound| bound.may_use_channel(name, is_pattern))
            && self.all_selectors().any(|selector| selector.may_use_channel(name, is_pattern))
    }

    /// The cost of [`Self::check`], in the unit of [`dormouse_shard::execution::budget`].
    pub fn cost(&self, request: Request<'_>) -> usize {
        let (texts, bytes) = (request.len(), request.extent());
        let of_bound = self.bound.as_ref().map_or(0, |bound| bound.cost(request));
        self.all_selectors().map(|selector| selector.cost(texts, bytes)).fold(of_bound, usize::saturating_add)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let selectors: usize = self.selectors.iter().map(Selector::bytes).sum();
        size_of::<Self>() + self.name.len() + size_of_val(&*self.passwords) + self.root.bytes() + selectors
    }

    /// Redis's flags.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        let flags = [
            (self.is_enabled, "on"),
            (!self.is_enabled, "off"),
            (self.is_nopass, "nopass"),
            (self.skips_sanitizing, "skip-sanitize-payload"),
            (!self.skips_sanitizing, "sanitize-payload"),
        ];
        flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name)
    }

    /// Its line of `ACL LIST`, or of rules that make it again.
    pub fn describe(&self, form: RulesForm) -> Vec<u8> {
        let mut line = [b"user ", &*self.name].concat();
        for flag in self.flags() {
            line.push(b' ');
            line.extend_from_slice(flag.as_bytes());
        }
        for password in &self.passwords {
            line.extend_from_slice(format!(" #{password}").as_bytes());
        }
        line.push(b' ');
        self.root.describe(&mut line, form);
        for selector in &self.selectors {
            line.extend_from_slice(b" (");
            selector.describe(&mut line, form);
            line.push(b')');
        }
        line
    }
}

/// Joins the words of selectors: a rule from `(` to `)` may come as several words.
///
/// # Errors
/// The word with an opening parenthesis that is not closed.
pub fn join_selectors<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, &'a [u8]> {
    let mut rules: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(&[u8], Vec<u8>)> = None;
    for word in words {
        if let Some((_, rule)) = &mut open {
            rule.push(b' ');
            rule.extend_from_slice(word);
            if word.ends_with(b")") {
                rules.extend(open.take().map(|(_, rule)| rule));
            }
        } else if word.starts_with(b"(") && !word.ends_with(b")") {
            open = Some((word, word.to_vec()));
        } else {
            rules.push(word.to_vec());
        }
    }
    match open {
        Some((word, _)) => Err(word),
        None => Ok(rules),
    }
}
