use anyhow::{Result, bail};
use bytes::{Buf, BytesMut};
use rtmp::name::Url;
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much is read at a time, at least.
const READ: usize = 16 << 10;

/// Our own client on a tokio socket, for load: by the hundred in one process.
pub struct Connection {
    stream: TcpStream,
    /// The session: tags are given to it and events taken from it.
    pub client: Client,
    input: BytesMut,
}

impl Connection {
    /// Connects and waits until the server has accepted.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn open(url: &Url, intent: Intent) -> Result<Self> {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
        stream.set_nodelay(true)?;
        // Nobody is deceived by a handshake without randomness.
        let client = Client::new(Config::new(intent, url.clone()), [7; 32]);
        let mut this = Self { stream, client, input: BytesMut::with_capacity(4 * READ) };
        loop {
            this.flush().await?;
            match this.client.poll_event() {
                Some(Event::Ready) => return Ok(this),
                Some(Event::Rejected { code, description }) => bail!("{code}: {description}"),
                Some(Event::Ended) => bail!("ended before it began"),
                Some(_) => {}
                None => this.read().await?,
            }
        }
    }

    /// Writes what the session has to say, as fast as the server takes it, and reads meanwhile.
    ///
    /// # Errors
    ///
    /// If the connection is lost or the server makes no sense.
    pub async fn flush(&mut self) -> Result<()> {
        let (mut reader, mut writer) = self.stream.split();
        while self.client.send_queue().has_remaining() {
            self.input.reserve(READ);
            tokio::select! {
                biased;
                written = writer.write_buf(self.client.send_queue()) => { written?; }
                read = reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        bail!("the server closed the connection");
                    }
                    self.client.handle_input(&mut self.input)?;
                }
            }
        }
        Ok(())
    }

    /// Reads once. It may be cancelled.
    ///
    /// # Errors
    ///
    /// If the connection is lost or the server makes no sense.
    pub async fn read(&mut self) -> Result<()> {
        self.input.reserve(READ);
        if self.stream.read_buf(&mut self.input).await? == 0 {
            bail!("the server closed the connection");
        }
        self.client.handle_input(&mut self.input)?;
        Ok(())
    }
}
