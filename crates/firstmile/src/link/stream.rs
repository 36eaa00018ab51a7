//! Streams of a link.

use std::future::poll_fn;

use bytes::Bytes;

use crate::{quic, tcp};

/// Why nothing more can be written to a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer wants no more of it, or it is over.
    #[error("the peer wants no more of the stream")]
    Stopped,
    /// The link is lost, for this reason.
    #[error("{0}")]
    Lost(String),
}

/// Why nothing more can be read of a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer has given it up.
    #[error("the peer has given the stream up")]
    Reset,
    /// The link is lost, for this reason.
    #[error("{0}")]
    Lost(String),
}

/// The end of a stream that is written to. Dropped without a word, it is finished.
#[derive(Debug)]
pub enum SendStream {
    /// Of a QUIC connection.
    Quic(quic::SendStream),
    /// Of a TCP connection.
    Tcp(tcp::SendStream),
}

/// The end of a stream that is read. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub enum RecvStream {
    /// Of a QUIC connection.
    Quic(quic::RecvStream),
    /// Of a TCP connection.
    Tcp(tcp::RecvStream),
}

impl SendStream {
    /// Writes as much of these as the link takes, at least something, and waits until it takes
    /// something. What was taken is cut off them; returns how many were taken whole. Dropped, it has
    /// taken nothing.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        match self {
            Self::Quic(stream) => Ok(stream.write_chunks(chunks).await?.chunks),
            Self::Tcp(stream) => poll_fn(|cx| stream.poll_write(cx, chunks)).await,
        }
    }

    /// Writes all of it. Dropped, it has taken some.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        let mut chunks = [chunk];
        while !chunks[0].is_empty() {
            self.write_chunks(&mut chunks).await?;
        }
        Ok(())
    }

    /// Says that this was all.
    ///
    /// # Errors
    ///
    /// [`WriteError::Stopped`] if it was over already.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        match self {
            Self::Quic(stream) => Ok(stream.finish()?),
            Self::Tcp(stream) => stream.finish(),
        }
    }

    /// Gives up what the peer does not have yet.
    ///
    /// # Errors
    ///
    /// [`WriteError::Stopped`] if it was over already.
    pub fn reset(&mut self) -> Result<(), WriteError> {
        match self {
            Self::Quic(stream) => Ok(stream.reset(0u32.into())?),
            Self::Tcp(stream) => stream.reset(),
        }
    }
}

impl RecvStream {
    /// What has come, `most` bytes of it at most; `None` at the stream's end.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, ReadError> {
        match self {
            Self::Quic(stream) => {
                let chunk = stream.read_chunk(most, true).await?;
                Ok(chunk.map(|chunk| chunk.bytes))
            }
            Self::Tcp(stream) => poll_fn(|cx| stream.poll_read(cx, most)).await,
        }
    }
}
