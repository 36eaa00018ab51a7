//! The one thread that writes to the disk.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::segments::Segments;
use super::shelves::Job;
use super::{Disk, State, block};
use crate::config::value::Size;
use crate::platform;

/// How often the time of what is on the disk is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a disk that failed is left alone.
const RETRY: Duration = Duration::from_secs(2);
/// Between two log lines about it.
const LINES: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Writer {
    disk: Arc<Disk>,
    segments: Segments,
    buffer: Vec<u8>,
    next_tick: Instant,
    /// When it was logged that the disk fails.
    told: Option<Instant>,
}

impl Writer {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let bounds = &disk.bounds;
        let segments = Segments::new(&disk.directory, bounds.disk, bounds.disk_time);
        Self { disk, segments, buffer: Vec::new(), next_tick: Instant::now(), told: None }
    }

    /// Writes until the spool is stopped.
    pub(super) fn run(mut self) {
        let mut is_clean = false;
        while let Some(job) = self.wait() {
            let now = Instant::now();
            if !is_clean {
                let cleaned = self.segments.clean();
                is_clean = cleaned.is_ok();
                self.note(cleaned.err().as_ref(), now);
            }
            if now >= self.next_tick {
                self.next_tick = now + TICK;
                self.disk.lock().shelves.tick();
            }
            self.make_room(0, now);
            let Some(job) = job else { continue };
            match self.write(&job, now) {
                Ok(()) => self.note(None, now),
                Err(error) => {
                    self.note(Some(&error), now);
                    self.rest(RETRY);
                }
            }
        }
        self.segments.remove_all();
        self.disk.lock().has_ended = true;
        self.disk.changed.notify_all();
    }

    /// Waits for a block, or for the next tick; `None` once the spool is stopped.
    fn wait(&self) -> Option<Option<Job>> {
        let mut state = self.disk.lock();
        loop {
            let left = self.next_tick.saturating_duration_since(Instant::now());
            let job = state.shelves.next();
            if state.is_stopped {
                return None;
            }
            if job.is_some() || left.is_zero() {
                return Some(job);
            }
            state = self.wait_on(state, left);
        }
    }

    /// Leaves the disk alone for a while.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.disk.lock();
        while !state.is_stopped && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = self.wait_on(state, left);
        }
    }

    fn wait_on<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.disk.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Removes what has to go before so many bytes are written.
    fn make_room(&mut self, bytes: u64, now: Instant) {
        while let Some((owner, segment)) = self.segments.spare(bytes, now) {
            self.lose(owner, segment);
        }
        self.disk.lock().figures.disk_bytes = self.segments.bytes();
    }

    fn lose(&mut self, owner: u64, segment: u64) {
        self.disk.lock().shelves.lose(owner, segment);
        self.segments.remove(owner, segment);
    }

    fn write(&mut self, job: &Job, now: Instant) -> io::Result<()> {
        self.buffer.clear();
        block::encode(job.tags.iter(), &mut self.buffer);
        if self.disk.cipher.seal(job.serial, &mut self.buffer).is_none() {
            self.disk.lock().shelves.give_up(job);
            return Ok(());
        }
        self.make_room(self.buffer.len() as u64, now);
        loop {
            let has_room = self.check_room(self.buffer.len() as u64);
            let spot = has_room
                .and_then(|()| self.segments.append(job.owner, &self.buffer, job.newest, now));
            match spot {
                Ok(spot) => {
                    let mut state = self.disk.lock();
                    state.shelves.written(job, spot);
                    state.figures.disk_bytes = self.segments.bytes();
                    state.figures.disk_limit = self.segments.limit(now);
                    return Ok(());
                }
                Err(error) if is_full(&error) => {
                    // The newest is worth more than the oldest.
                    let Some((owner, segment)) = self.segments.largest() else { return Err(error) };
                    self.lose(owner, segment);
                    self.segments.lower(now);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A disk that others would miss room on is full for the spool.
    fn check_room(&self, bytes: u64) -> io::Result<()> {
        let (directory, keep) = (&self.disk.directory, self.disk.bounds.keep_free);
        match platform::free_space(directory) {
            Some(free) if free < keep.saturating_add(bytes) => {
                let why = format!("less than {} is free there (spool.keep_free)", Size(keep));
                Err(io::Error::new(io::ErrorKind::StorageFull, why))
            }
            _ => Ok(()),
        }
    }

    /// Tells people whether the disk can be written.
    fn note(&mut self, error: Option<&io::Error>, now: Instant) {
        let error = error.map(ToString::to_string);
        let mut state = self.disk.lock();
        if state.figures.error == error {
            return;
        }
        let directory = self.disk.directory.display();
        state.figures.error.clone_from(&error);
        drop(state);
        match error {
            Some(_) if self.told.is_some_and(|told| now < told + LINES) => {}
            Some(error) => {
                self.told = Some(now);
                warn!(%directory, error, "the spool cannot be written; the live feeds go on");
            }
            None => info!(%directory, "the spool is written again"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
