//! The server's promise about writes that it acknowledged before it was killed.

use std::{fmt, str::FromStr, time::Duration};

use crate::script::Random;

/// Margin for clocks that are read a little before or after the event.
const CLOCK_MARGIN: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `0`, or `250ms`: writes acknowledged longer ago than that survive, and a loss is the end of the writes to the
    /// whole node.
    Window(Duration),
    /// `none`: only the data of a checkpoint survives, for each database by itself.
    NoLog,
    /// The same promise of a server that was told no loss window.
    Checkpoint,
}

impl Mode {
    /// Writes acknowledged longer than this before the crash survive.
    pub fn window(self) -> Option<Duration> {
        match self {
            Self::Window(Duration::ZERO) => Some(Duration::ZERO),
            Self::Window(window) => Some(window + CLOCK_MARGIN),
            Self::NoLog | Self::Checkpoint => None,
        }
    }

    /// Returns how long a round writes before the kill: often longer than the window.
    pub fn load(self, random: &mut Random) -> Duration {
        let window = self.window().unwrap_or_default().min(Duration::from_secs(1));
        Duration::from_millis(5 + random.below(250 + 2 * window.as_millis() as usize) as u64)
    }

    /// Whether the lost writes were last in the whole node, and not only in each database.
    pub fn one_log(self) -> bool {
        matches!(self, Self::Window(_))
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("no mode is called `{text}`"));
        Ok(match text {
            "0" => Self::Window(Duration::ZERO),
            "none" => Self::NoLog,
            "checkpoint" => Self::Checkpoint,
            _ => match text.strip_suffix("ms") {
                Some(ms) => Self::Window(Duration::from_millis(number(ms)?)),
                None => Self::Window(Duration::from_secs(number(text.strip_suffix('s').unwrap_or("?"))?)),
            },
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(Duration::ZERO) => f.write_str("0"),
            Self::Window(window) => write!(f, "{}ms", window.as_millis()),
            Self::NoLog => f.write_str("none"),
            Self::Checkpoint => f.write_str("checkpoint"),
        }
    }
}
