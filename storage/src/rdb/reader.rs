//! Reading RDB from a stream, item by item.
//!
//! 1. The header gives the writer and the version.
//! 2. An opcode that stands for itself is one item. Expiry, idle time and frequency are kept for the key after them.
//! 3. A type that the codec knows, those of some modules among them: key and value are found by skimming, stay in the buffer, and are lent to the caller.
//! 4. A hash encoding of newer servers is converted to one that the codec knows.
//! 5. A type that it does not know: the key is copied, the value is passed over without being kept.
//! 6. The end: the checksum is compared, and nothing after it is read as part of the RDB. [`RdbReader::into_inner`]
//!    gives back the bytes that the buffer had taken from the stream already.

use std::io::Read;

use super::error::{RdbError, RdbProblem};
use super::input::Input;
use super::skim::{self, Support};
use super::{
    OPCODE_AUX, OPCODE_END, OPCODE_EXPIRY_MS, OPCODE_EXPIRY_S, OPCODE_FREQUENCY, OPCODE_FUNCTION,
    OPCODE_FUNCTION_EARLY, OPCODE_HASH_TEMPLATE, OPCODE_IDLE, OPCODE_KEY_METADATA, OPCODE_MODULE_AUX, OPCODE_RESIZE,
    OPCODE_SELECT, OPCODE_SLOT_IMPORT, OPCODE_SLOT_INFO, REDIS, VALKEY,
};
use crate::codec::string::{RdbString, STRING_BYTES_MAX, read_string};
use crate::codec::value::newer::{Dialect, Templates, flatten};
use crate::codec::value::{is_known_module, kind, module};
use crate::codec::{CodecError, Reader};

/// Redis 8.10's.
const REDIS_VERSION_MAX: u32 = 15;
/// Valkey 9.0's and 9.1's.
const VALKEY_VERSION: u32 = 80;
/// From this version on an RDB has a checksum.
const VERSION_WITH_CHECKSUM: u32 = 5;

type Result<T, E = RdbError> = std::result::Result<T, E>;

/// An item of an RDB.
#[derive(Debug)]
pub enum RdbEntry<'a> {
    /// Something about the writer, such as `redis-ver`.
    Aux {
        name: Vec<u8>,
        value: Vec<u8>,
    },
    /// The keys after it belong to this logical index.
    Select(u64),
    /// How many keys the index has, and how many of them expire: a hint.
    Resize {
        keys: u64,
        expires: u64,
    },
    /// The source of a library of functions.
    Function(Vec<u8>),
    /// Data of a module beside keys. It was passed over.
    ModuleAux {
        module: String,
    },
    Key(RdbRecord<'a>),
    /// A key with a value that this build cannot take. It was passed over.
    Unsupported {
        key: Vec<u8>,
        what: String,
    },
    /// Nothing follows; the checksum was right.
    End,
}

/// A key and its value.
#[derive(Debug)]
pub struct RdbRecord<'a> {
    /// Unix milliseconds.
    pub expiry_ms: Option<u64>,
    /// Seconds since the key was used.
    pub idle_s: Option<u64>,
    /// How often it is used, as Redis counts it.
    pub frequency: Option<u8>,
    /// The number of the value's encoding; one that the codec decodes.
    pub kind: u8,
    pub key: RdbString<'a>,
    /// The value as it is in the RDB. Its contents have not been checked.
    pub value: &'a [u8],
}

/// Reads one RDB. Nothing comes after [`RdbEntry::End`] or an error.
pub struct RdbReader<R> {
    input: Input<R>,
    origin: Dialect,
    version: u32,
    templates: Templates,
    /// The encoding that the codec knows of a hash that was stored in another one.
    flat: Vec<u8>,
    done: bool,
}

impl<R: Read> RdbReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the stream holds no RDB, or one of a version that this build does not know.
    pub fn new(inner: R) -> Result<Self> {
        let mut input = Input::new(inner);
        let not_one = || RdbError { offset: 0, problem: CodecError::Magic("Redis data set (RDB)").into() };
        let header: [u8; 9] = input.array().map_err(|error: RdbError| match error.problem {
            RdbProblem::Content(_) => not_one(),
            RdbProblem::Input(_) | RdbProblem::Endless { .. } | RdbProblem::Value { .. } | RdbProblem::Opcode(_) => {
                error
            }
        })?;
        let digits = header.strip_prefix(REDIS).map(|digits| (digits, Dialect::Redis));
        let digits = digits.or_else(|| header.strip_prefix(VALKEY).map(|digits| (digits, Dialect::Valkey)));
        let version = digits.filter(|(digits, _)| digits.iter().all(u8::is_ascii_digit)).map(|(digits, origin)| {
            (digits.iter().fold(0, |version, digit| version * 10 + u32::from(digit - b'0')), origin)
        });
        let Some((version, origin)) = version else {
            return Err(not_one());
        };
        let known = match origin {
            Dialect::Redis => (1..=REDIS_VERSION_MAX).contains(&version),
            Dialect::Valkey => version == VALKEY_VERSION,
        };
        if !known {
            return Err(input.error(CodecError::Version { what: "RDB", version }));
        }
        Ok(RdbReader { input, origin, version, templates: Templates::default(), flat: Vec::new(), done: false })
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many bytes have been read as items.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next item.
    ///
    /// # Errors
    /// When the stream ends early, cannot be read, or holds what no RDB holds; nothing more can be read then.
    #[allow(clippy::should_implement_trait, reason = "the item is lent, which an Iterator cannot do")]
    pub fn next(&mut self) -> Result<RdbEntry<'_>> {
        if self.done {
            return Ok(RdbEntry::End);
        }
        // Set again if something follows this item.
        self.done = true;
        let (mut expiry_ms, mut idle_s, mut frequency, mut has_metadata) = (None, None, None, false);
        let input = &mut self.input;
        let entry = loop {
            input.keep();
            match input.u8()? {
                OPCODE_EXPIRY_MS => expiry_ms = Some(i64::from_le_bytes(input.array()?)),
                OPCODE_EXPIRY_S => {
                    let expiry_s = i32::from_le_bytes(input.array()?);
                    expiry_ms = Some(i64::from(expiry_s) * 1000);
                }
                OPCODE_IDLE => idle_s = Some(skim::length(input)?),
                OPCODE_FREQUENCY => frequency = Some(input.u8()?),
                OPCODE_AUX => break RdbEntry::Aux { name: text(input)?, value: text(input)? },
                OPCODE_SELECT => break RdbEntry::Select(skim::length(input)?),
                OPCODE_RESIZE => {
                    break RdbEntry::Resize { keys: skim::length(input)?, expires: skim::length(input)? };
                }
                OPCODE_FUNCTION => break RdbEntry::Function(text(input)?),
                OPCODE_FUNCTION_EARLY => {
                    let problem = CodecError::Malformed("functions as only release candidates of Redis 7 wrote them");
                    return Err(input.error(problem));
                }
                OPCODE_MODULE_AUX => {
                    let module = module::name(skim::length(input)?);
                    input.discard();
                    skim::module_fields(input)?;
                    break RdbEntry::ModuleAux { module };
                }
                OPCODE_SLOT_INFO => {
                    for _ in 0..3 {
                        skim::length(input)?;
                    }
                }
                OPCODE_HASH_TEMPLATE if self.origin == Dialect::Redis => {
                    let (number, fields) = skim::template(input, self.templates.room())?;
                    let added = self.templates.add(number, input.kept(fields, input.mark()));
                    added.map_err(|problem| input.error(problem))?;
                }
                OPCODE_KEY_METADATA if self.origin == Dialect::Redis => {
                    skim::key_metadata(input)?;
                    has_metadata = true;
                }
                OPCODE_SLOT_IMPORT if self.origin == Dialect::Valkey => {
                    let from = input.mark();
                    let end = skim::slot_import(input)?;
                    let key = parse(input, from, end)?.into_vec();
                    break RdbEntry::Unsupported { key, what: "an unfinished import of slots".to_owned() };
                }
                OPCODE_END => {
                    check_end(input, self.version)?;
                    return Ok(RdbEntry::End);
                }
                kind => {
                    let mut support = skim::support(kind, self.origin);
                    if support == Support::Unknown {
                        return Err(input.error(RdbProblem::Opcode(kind)));
                    }
                    let key_from = input.mark();
                    skim::string(input)?;
                    let value_from = input.mark();
                    let module = if kind == kind::MODULE_2 { Some(skim::length(input)?) } else { None };
                    if module.is_some_and(is_known_module) {
                        support = Support::Whole;
                    }
                    if has_metadata || !matches!(support, Support::Whole | Support::Hash) {
                        let key = parse(input, key_from, value_from)?.into_vec();
                        let mut what = pass_over(input, &key, (kind, module), support, (self.origin, &self.templates))?;
                        if has_metadata {
                            what += " with metadata of a module";
                        }
                        break RdbEntry::Unsupported { key, what };
                    }
                    match module {
                        Some(_) => skim::module_fields(input)?,
                        None => skim::value(input, kind, self.origin, &self.templates)?,
                    }
                    let mut form = kind;
                    if support == Support::Hash {
                        let key = parse(input, key_from, value_from)?;
                        let mut inside = Reader::new(input.kept(value_from, input.mark()));
                        match flatten(kind, self.origin, &self.templates, &mut inside, &mut self.flat) {
                            Ok(flat) => form = flat,
                            Err(problem) => {
                                let key = key.with_bytes(|key| String::from_utf8_lossy(key).into_owned());
                                return Err(input.error(RdbProblem::Value { key, problem }));
                            }
                        }
                    }
                    self.done = false;
                    let key = parse(&self.input, key_from, value_from)?;
                    let value = self.input.kept(value_from, self.input.mark());
                    let value = if support == Support::Hash { &self.flat } else { value };
                    // A time before 1970 has passed.
                    let expiry_ms = expiry_ms.map(|at| u64::try_from(at).unwrap_or(0));
                    return Ok(RdbEntry::Key(RdbRecord { expiry_ms, idle_s, frequency, kind: form, key, value }));
                }
            }
        };
        self.done = false;
        Ok(entry)
    }

    /// The stream, and the bytes taken from it that are not part of the items read.
    pub fn into_inner(self) -> (R, Vec<u8>) {
        self.input.into_inner()
    }
}

fn check_end<R: Read>(input: &mut Input<R>, version: u32) -> Result<()> {
    if version < VERSION_WITH_CHECKSUM {
        return Ok(());
    }
    let computed = input.checksum();
    match u64::from_le_bytes(input.array()?) {
        stored if stored == 0 || stored == computed => Ok(()),
        stored => Err(input.error(CodecError::Checksum { stored, computed })),
    }
}

/// Reads past a value without keeping it. Returns its name for messages.
fn pass_over<R: Read>(
    input: &mut Input<R>,
    key: &[u8],
    (kind, module): (u8, Option<u64>),
    support: Support,
    (origin, templates): (Dialect, &Templates),
) -> Result<String> {
    if let Some(id) = module {
        input.discard();
        skim::module_fields(input)?;
        return Ok(skim::module_value(id));
    }
    let what = match support {
        Support::Endless(what) => {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(input.error(RdbProblem::Endless { key, what }));
        }
        Support::Skipped(what) => what,
        Support::Whole | Support::Hash | Support::Unknown => "a value",
    };
    input.discard();
    skim::value(input, kind, origin, templates)?;
    Ok(what.to_owned())
}

/// The string that was skimmed between two marks.
fn parse<R: Read>(input: &Input<R>, from: usize, to: usize) -> Result<RdbString<'_>> {
    let string = read_string(&mut Reader::new(input.kept(from, to))).map_err(|problem| input.error(problem))?;
    match &string {
        RdbString::Bytes(bytes) if bytes.len() as u64 > STRING_BYTES_MAX => {
            Err(input.error(CodecError::Malformed("string over 512 MiB")))
        }
        _ => Ok(string),
    }
}

fn text<R: Read>(input: &mut Input<R>) -> Result<Vec<u8>> {
    let from = input.mark();
    skim::string(input)?;
    Ok(parse(input, from, input.mark())?.into_vec())
}
