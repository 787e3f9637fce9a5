//! Values of options that may hold a secret.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// Reads a value that may hold a secret. Unlike clap's own errors, its errors describe the problem without repeating
/// the value.
#[derive(Debug)]
pub struct Unrepeated<T>(PhantomData<fn() -> T>);

impl<T> Unrepeated<T> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Unrepeated<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: FromStr<Err = String> + Clone + Send + Sync + 'static> TypedValueParser for Unrepeated<T> {
    type Value = T;

    fn parse_ref(&self, _: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let read = value.to_str().ok_or_else(|| "expected UTF-8".to_owned()).and_then(str::parse);
        read.map_err(|problem| {
            let option = arg.map(Arg::to_string).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("invalid value for '{option}': {problem}\n"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::Invocation;

    #[test]
    fn a_url_that_cannot_be_read_is_not_repeated() {
        for (line, expected) in [
            ("db list --url redis://:dm_shop_s3cret@host:99999", "invalid value for '--url <URL>': expected redis://"),
            ("db list --url http://:dm_shop_s3cret@host", "expected redis://"),
            ("db --url unix://:dm_shop_s3cret@run list", "unix://:TOKEN@/path"),
            ("db list --url redisss://:dm_shop_s3cret@host", "rediss:// for TLS"),
            ("import a.rdb --to redis://:dm_shop_s3cret@host:99999", "invalid value for '--to <URL>': the URL's port"),
            ("import a.rdb --to dm_shop_s3cret", "expected a URL"),
        ] {
            let words = ["dormouse"].into_iter().chain(line.split(' ')).map(OsString::from);
            let error = Invocation::parse(words, []).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{line}: {error}");
        }
    }
}
