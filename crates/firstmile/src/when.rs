//! An instant as people write it: a date, a time of day and its distance from UTC (RFC 3339).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::date::civil;
use crate::store::{from_unix_seconds, unix_seconds};

/// Years that are read: what is beyond is a slip of the hand.
const YEARS: std::ops::RangeInclusive<i64> = 1970..=9999;

/// An instant, to the second.
///
/// Read as `2026-11-23T23:59+01:00`, with seconds or without, with a space for the `T` and `Z` for
/// UTC. What has no distance from UTC is refused: machines in racks rarely know the time of day of
/// those who rent them. Written in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct When(u64);

impl When {
    /// The last second of the year 9999, so that every instant can be written.
    const LAST: u64 = 253_402_300_799;

    /// An instant by its seconds since 1970; `None` beyond the year 9999.
    pub fn from_unix(seconds: u64) -> Option<Self> {
        (seconds <= Self::LAST).then_some(Self(seconds))
    }

    /// The instant so long after `now`; `None` beyond the year 9999.
    pub fn after(now: SystemTime, span: Duration) -> Option<Self> {
        Self::from_unix(unix_seconds(now).checked_add(span.as_secs())?)
    }

    /// Seconds since 1970.
    pub fn unix(self) -> u64 {
        self.0
    }

    /// How it is seen from `now`: `in 3 h 20 min`, or `12 min ago`.
    pub fn seen_from(self, now: SystemTime) -> String {
        let now = unix_seconds(now);
        // Nobody counts the seconds of an hour, or the minutes of a week. The nearest is told: what was
        // limited to 6 h a moment ago has 6 h to go, not 5 h 59 min.
        let span = |seconds: u64| match seconds {
            0..120 => format!("{seconds} s"),
            120..7_170 => format!("{} min", (seconds + 30) / 60),
            7_170..172_770 => {
                let minutes = (seconds + 30) / 60;
                format!("{} h {} min", minutes / 60, minutes % 60)
            }
            _ => format!("{} days", (seconds + 43_200) / 86_400),
        };
        match self.0.checked_sub(now) {
            Some(left) => format!("in {}", span(left)),
            None => format!("{} ago", span(now - self.0)),
        }
    }

    /// The instant itself; `None` if the system's clock does not reach so far.
    pub fn system_time(self) -> Option<SystemTime> {
        from_unix_seconds(self.0)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let minute = seconds.rem_euclid(86_400) / 60;
        let (hour, minute) = (minute / 60, minute % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let text = text.trim();
        let (date, rest) = text.split_once(['T', 't', ' ']).ok_or(WhenError::Form)?;
        let [year, month, day] = numbers(date, '-').ok_or(WhenError::Form)?;
        let (time, offset) = match rest.find(['Z', 'z', '+', '-']) {
            Some(at) => rest.split_at(at),
            None => return Err(WhenError::Offset),
        };
        let (hour, minute, second) = match time.trim_end().matches(':').count() {
            1 => numbers(time.trim_end(), ':').map(|[hour, minute]| (hour, minute, 0)),
            _ => numbers(time.trim_end(), ':').map(|[hour, minute, second]| (hour, minute, second)),
        }
        .ok_or(WhenError::Form)?;
        let offset = minutes_from_utc(offset)?;
        let in_range = YEARS.contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        let days = if in_range { days(year, month, day) } else { 0 };
        if !in_range || civil(days) != (year, month, day) {
            return Err(WhenError::Range);
        }
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60;
        u64::try_from(seconds).map(Self).map_err(|_| WhenError::Range)
    }
}

/// So many numbers, each of two to four digits.
fn numbers<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let mut parts = text.split(between).map(|part| {
        let is_number = (2..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse().ok()).flatten()
    });
    let mut found = [0; N];
    for number in &mut found {
        *number = parts.next()??;
    }
    parts.next().is_none().then_some(found)
}

/// `Z`, `+HH:MM`, `+HHMM` or `+HH`.
fn minutes_from_utc(text: &str) -> Result<i64, WhenError> {
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("Z" | "z", "")) => return Ok(0),
        Some(("+", digits)) => (1, digits),
        Some(("-", digits)) => (-1, digits),
        _ => return Err(WhenError::Offset),
    };
    let digits = digits.replacen(':', "", 1);
    let number: i64 = match digits.len() {
        2 => digits.parse().map(|hours: i64| hours * 100),
        4 => digits.parse(),
        _ => return Err(WhenError::Offset),
    }
    .map_err(|_| WhenError::Offset)?;
    let (hours, minutes) = (number / 100, number % 100);
    if !digits.bytes().all(|b| b.is_ascii_digit()) || hours > 23 || minutes > 59 {
        return Err(WhenError::Offset);
    }
    Ok(sign * (hours * 60 + minutes))
}

/// Days from 1970-01-01 to a date. Years begin in March, from one that began an era of 400 of them.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

/// Why a text is no [`When`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhenError {
    /// It is written in another form.
    #[error("expected a date and a time such as 2026-11-23T23:59+01:00")]
    Form,
    /// Its distance from UTC is missing or wrong.
    #[error(
        "expected the distance from UTC at its end, as in 2026-11-23T23:59+01:00, or Z for UTC"
    )]
    Offset,
    /// There is no such day or time.
    #[error("there is no such day or time of day")]
    Range,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00Z", 0),
            ("2026-11-23T23:59Z", 1_795_478_340),
            ("2026-11-24T00:59+01:00", 1_795_478_340),
            ("2026-11-23 18:59:00 -0500", 1_795_478_340),
            ("2026-11-24t05:29:01+0530", 1_795_478_341),
            ("2026-11-24T01:59+02", 1_795_478_340),
            ("2024-02-29T12:00z", 1_709_208_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(text.parse(), Ok(When(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        for (text, error) in [
            ("tonight", WhenError::Form),
            ("23:59", WhenError::Form),
            ("", WhenError::Form),
            ("2026-11-23T23:59", WhenError::Offset),
            ("2026-11-23T23:59+1", WhenError::Offset),
            ("2026-11-23T23:59+24:00", WhenError::Offset),
            ("2026-11-23T23:59Zx", WhenError::Offset),
            ("2026-11-23T23:59+é", WhenError::Offset),
            ("2026-11-23T2359Z", WhenError::Form),
            ("2026-11-23T23:59:00.5Z", WhenError::Form),
            ("2026-02-29T00:00Z", WhenError::Range),
            ("2026-13-01T00:00Z", WhenError::Range),
            ("2026-11-31T00:00Z", WhenError::Range),
            ("2026-11-23T24:00Z", WhenError::Range),
            ("1969-12-31T00:00Z", WhenError::Range),
            ("1970-01-01T00:00+01:00", WhenError::Range),
        ] {
            assert_eq!(text.parse::<When>(), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_written() {
        assert_eq!(When(1_795_478_340).to_string(), "2026-11-23 23:59 UTC");
        assert_eq!(When(0).to_string(), "1970-01-01 00:00 UTC");
        assert_eq!(When(When::LAST).to_string(), "9999-12-31 23:59 UTC");
        assert!(!When(u64::MAX).to_string().is_empty());
        assert_eq!(When::from_unix(When::LAST + 1), None);
        assert_eq!(When::after(SystemTime::now(), Duration::MAX), None);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(When(10_059).seen_from(now), "in 59 s");
        assert_eq!(When(10_149).seen_from(now), "in 2 min");
        assert_eq!(When(17_169).seen_from(now), "in 119 min");
        assert_eq!(When(17_170).seen_from(now), "in 2 h 0 min");
        assert_eq!(When(22_033).seen_from(now), "in 3 h 21 min");
        assert_eq!(When(31_598).seen_from(now), "in 6 h 0 min");
        assert_eq!(When(182_769).seen_from(now), "in 47 h 59 min");
        assert_eq!(When(182_770).seen_from(now), "in 2 days");
        assert_eq!(When(9_000).seen_from(now), "17 min ago");
    }

    #[test]
    fn every_day_comes_back() {
        for day in (0..40_000).chain(2_932_000..2_932_896) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
    }
}
