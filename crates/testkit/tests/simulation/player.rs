//! A player at the studio, which checks what it gets.

use std::time::Instant;

use hub::{Feed, Item, Join, Next, Policy, Subscriber};
use media::{Position, PublicationId, Role, Track, TrackSet};

use crate::encoder::{Kind, Story};
use crate::studio::BUDGET;

pub(crate) struct Player {
    subscriber: Subscriber,
    last: TrackSet<Option<(PublicationId, u64)>>,
    newest: PublicationId,
    header: Option<(PublicationId, u64)>,
    pub(crate) frames: u64,
}

impl Player {
    pub(crate) fn new(studio: &Feed) -> Self {
        // It never skips by itself.
        let policy = Policy { join: Join::Smooth, max_delay: BUDGET * 100, verbatim: false };
        Self {
            subscriber: studio.subscribe(policy, None),
            last: TrackSet::default(),
            newest: PublicationId([0; 16]),
            header: None,
            frames: 0,
        }
    }

    pub(crate) fn tick(&mut self, story: &Story, now: Instant) {
        let mut items = Vec::new();
        while self.subscriber.poll(now, &mut items, usize::MAX) == Next::Tags {}
        for item in &items {
            self.check(item, story);
        }
    }

    /// No tag twice, none out of order, none of an older publication, and no frame without its
    /// header or its GOP's start.
    fn check(&mut self, item: &Item, story: &Story) {
        let Position { publication, number, previous } = item.position;
        let track = item.tag.track;
        assert!(publication >= self.newest, "{publication} is stale: {} is on air", self.newest);
        self.newest = publication;
        if track == Track::Video && item.tag.role == Role::SequenceHeader {
            self.header = Some((publication, number));
        }
        if let Some((_, last)) = self.last[track].filter(|(before, _)| *before == publication) {
            assert!(number > last, "{track:?} {number} came after {last}");
        }
        if matches!(item.tag.role, Role::Keyframe | Role::Frame) && track == Track::Video {
            let in_force = story.tag(publication, number).header;
            let header = in_force.map(|header| (publication, header));
            assert_eq!(self.header, header, "the header of frame {number} of {publication}");
            let follows = self.last[track] == previous.map(|previous| (publication, previous));
            let is_free = story.of(publication).kind == Kind::NoKeyframes;
            assert!(
                follows || is_free || item.tag.is_keyframe(),
                "frame {number} of {publication} follows {previous:?}, and {:?} was played last",
                self.last[track]
            );
            self.frames += 1;
        }
        self.last[track] = Some((publication, number));
    }
}
