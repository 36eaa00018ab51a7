//! How loud a feed's sound is: AAC-LC decoded for its level alone, ten times a second.
//!
//! It costs about a thousandth of a core. It runs in a task of its own, which takes what it has
//! time for: a fault in the decoder costs the level and nothing else.

use std::time::Instant;

use bytes::Bytes;
use media::enhanced::{Fit, Form, fit};
use media::{Codec, Role, Tag, Track};
use symphonia_codec_aac::AacDecoder;
use symphonia_core::audio::{Audio, GenericAudioBufferRef};
use symphonia_core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia_core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia_core::packet::PacketRef;
use symphonia_core::units::{Duration, Timestamp};
use tokio::sync::mpsc;

use super::wire::Told;

/// Frames that wait for the decoder: a second and a half of sound.
const QUEUE: usize = 64;
/// The longest frame: 6,144 bits for each of two channels (ISO/IEC 14496-3 §4.5.3), and as many
/// again.
const MAX_FRAME: usize = 4 << 10;
/// Nothing is more silent, in dBFS.
const FLOOR: f32 = -90.0;
/// Levels in a second.
const RATE: usize = 10;
/// Time between two decoders: making one costs as much as hundreds of frames, and an encoder may send
/// another configuration with each of them.
const DECODER_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Where a feed's sound is handed in.
#[derive(Debug)]
pub(super) struct Meter {
    jobs: mpsc::Sender<Job>,
    /// What was said last of sound that has no level.
    told: Option<&'static str>,
}

#[derive(Debug)]
enum Job {
    Configure(Bytes),
    Decode(Bytes),
}

impl Meter {
    /// A meter that tells `show` what there is to be shown, as text messages.
    pub(super) fn new(show: impl Fn(String) + Send + 'static) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(queue, show));
        Self { jobs, told: None }
    }

    /// Takes a tag; returns a text message where the sound has no level.
    pub(super) fn take(&mut self, tag: &Tag) -> Option<String> {
        if tag.track != Track::Audio || !tag.tracks.has_main() {
            return None;
        }
        let why = match (content(tag), tag.role) {
            (Some(config), Role::SequenceHeader) => {
                let is_taken = self.jobs.try_send(Job::Configure(config)).is_ok();
                self.told = None;
                // A full queue is emptied soon; one that is closed was left by a fault.
                (!is_taken && self.jobs.is_closed()).then_some("the sound cannot be decoded")
            }
            (Some(frame), Role::Frame) => {
                if frame.len() <= MAX_FRAME {
                    // What does not fit is left out: the next tenth of a second is as good.
                    let _ = self.jobs.try_send(Job::Decode(frame));
                }
                None
            }
            (None, Role::Frame) if tag.codec.is_some_and(|codec| !is_aac(codec)) => {
                Some("levels are for AAC alone")
            }
            _ => None,
        }?;
        (self.told.replace(why) != Some(why)).then(|| Told::Mute { why }.text())
    }
}

fn is_aac(codec: Codec) -> bool {
    matches!(codec, Codec::FlvAudio(10)) || codec == Codec::FourCc(*b"mp4a")
}

/// Configuration or frame of an AAC tag.
fn content(tag: &Tag) -> Option<Bytes> {
    let tag = match fit(tag, Form::PLAIN, |_| true) {
        Fit::AsIs => tag.clone(),
        Fit::Remade(tag) => tag,
        Fit::Nothing => return None,
    };
    let head = match tag.codec.filter(|codec| is_aac(*codec))? {
        Codec::FlvAudio(_) => 2,
        // The packet type and the FourCC.
        _ => 5,
    };
    (tag.body.len() > head).then(|| tag.body.slice(head..))
}

async fn run(mut queue: mpsc::Receiver<Job>, show: impl Fn(String)) {
    let mut decoder = None;
    let mut wanted: Option<Bytes> = None;
    let mut made: Option<Instant> = None;
    while let Some(job) = queue.recv().await {
        match job {
            Job::Configure(config) => {
                decoder = None;
                wanted = Some(config);
            }
            Job::Decode(frame) => {
                let may_make = made.is_none_or(|made| made.elapsed() >= DECODER_PAUSE);
                if let Some(config) = wanted.take_if(|_| may_make) {
                    made = Some(Instant::now());
                    match Decoder::new(&config) {
                        Ok(new) => decoder = Some(new),
                        Err(why) => show(Told::Mute { why }.text()),
                    }
                }
                if let Some(level) = decoder.as_mut().and_then(|decoder| decoder.decode(&frame)) {
                    show(level);
                }
            }
        }
    }
}

struct Decoder {
    decoder: AacDecoder,
    /// Samples of each channel that a level is made of.
    window: usize,
    count: usize,
    channels: Vec<Channel>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    squares: f64,
    peak: f32,
}

impl Decoder {
    fn new(config: &[u8]) -> Result<Self, &'static str> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_AAC).with_extra_data(config.into());
        let decoder = AacDecoder::try_new(&parameters, &AudioDecoderOptions::default())
            .map_err(|_| "levels are for AAC-LC of one or two channels alone")?;
        let rate = decoder.codec_params().sample_rate.unwrap_or(48_000) as usize;
        Ok(Self { decoder, window: rate / RATE, count: 0, channels: Vec::new() })
    }

    /// Decodes a frame; returns a text message when a tenth of a second is full.
    fn decode(&mut self, frame: &[u8]) -> Option<String> {
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, frame);
        let Ok(GenericAudioBufferRef::F32(sound)) = self.decoder.decode_ref(&packet) else {
            return None;
        };
        self.channels.resize(sound.num_planes(), Channel::default());
        for (index, channel) in self.channels.iter_mut().enumerate() {
            for sample in sound.plane(index).into_iter().flatten() {
                channel.squares += f64::from(*sample) * f64::from(*sample);
                channel.peak = channel.peak.max(sample.abs());
            }
        }
        self.count += sound.frames();
        if self.count < self.window {
            return None;
        }
        let count = self.count as f64;
        let rms = |channel: &Channel| decibels((channel.squares / count).sqrt() as f32);
        let rms: Vec<_> = self.channels.iter().map(rms).collect();
        let peak: Vec<_> = self.channels.iter().map(|channel| decibels(channel.peak)).collect();
        self.count = 0;
        self.channels.clear();
        Some(Told::Level { rms: &rms, peak: &peak }.text())
    }
}

/// The level in dBFS, to a tenth; what is no number is silence.
fn decibels(amplitude: f32) -> f32 {
    let level = 20.0 * amplitude.log10();
    let level = if level.is_nan() { FLOOR } else { level.clamp(FLOOR, 20.0) };
    (level * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use media::flv;
    use serde_json::Value;

    use super::*;

    const CLIP: &[u8] = include_bytes!("../../../../../assets/clip.flv");

    fn sound() -> Vec<Tag> {
        let tags = flv::Reader::new(Bytes::from_static(CLIP)).unwrap().map(Result::unwrap);
        tags.filter(|tag| tag.track == Track::Audio).collect()
    }

    #[tokio::test]
    async fn the_clips_sound_has_a_level_ten_times_a_second() {
        let (show, mut shown) = mpsc::unbounded_channel();
        let mut meter = Meter::new(move |text| drop(show.send(text)));
        for tag in sound() {
            assert_eq!(meter.take(&tag), None);
            // The queue is short: a turn for the decoder.
            tokio::task::yield_now().await;
        }
        drop(meter);
        let mut levels = Vec::new();
        while let Some(text) = shown.recv().await {
            let level: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(level["type"], "level", "{text}");
            levels.push(level["rms"][0].as_f64().unwrap());
            let peak = level["peak"][0].as_f64().unwrap();
            assert!(peak >= levels[levels.len() - 1] && peak <= 1.0, "{text}");
        }
        assert!((80..=105).contains(&levels.len()), "{}", levels.len());
        let loud = levels.iter().filter(|level| **level > -60.0).count();
        assert!(loud > levels.len() / 2, "{levels:?}");
    }

    #[test]
    fn levels_are_decibels_of_full_scale() {
        assert_eq!(decibels(1.0), 0.0);
        assert_eq!(decibels(0.5), -6.0);
        assert_eq!(decibels(0.0), FLOOR);
        assert_eq!(decibels(f32::NAN), FLOOR);
        assert_eq!(decibels(f32::INFINITY), 20.0);
    }

    #[test]
    fn broken_sound_is_passed_over() {
        assert!(Decoder::new(&[0x2b, 0x11, 0x88, 0]).is_err(), "HE-AAC");
        assert!(Decoder::new(&[]).is_err());
        let mut decoder = Decoder::new(&[0x12, 0x10]).unwrap();
        for length in 0..200usize {
            let noise: Vec<_> = (0..length).map(|byte| (byte * 73 + length * 31) as u8).collect();
            decoder.decode(&noise);
        }
    }

    #[tokio::test]
    async fn another_configuration_with_every_frame_is_not_followed() {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (show, mut shown) = mpsc::unbounded_channel();
        let running = tokio::spawn(run(queue, move |text| drop(show.send(text))));
        let started = Instant::now();
        for _ in 0..2_000 {
            // HE-AAC, which each time is said to have no level.
            jobs.send(Job::Configure(Bytes::from_static(&[0x2b, 0x11, 0x88, 0]))).await.unwrap();
            jobs.send(Job::Decode(Bytes::from_static(&[0]))).await.unwrap();
        }
        drop(jobs);
        running.await.unwrap();
        let mut made = 0;
        while shown.recv().await.is_some() {
            made += 1;
        }
        let most = 1 + started.elapsed().as_millis() / DECODER_PAUSE.as_millis();
        assert!((1..=most).contains(&made), "{made}");
    }

    #[tokio::test]
    async fn what_has_no_level_says_so_once() {
        let mut meter = Meter::new(|_| {});
        let mp3 = Tag::new(Track::Audio, 0, Bytes::from_static(&[0x2f, 0xff, 0xfb]));
        assert!(meter.take(&mp3).unwrap().contains("AAC alone"));
        assert_eq!(meter.take(&mp3), None);
    }
}
