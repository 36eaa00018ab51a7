use super::link::Link;
use super::{Intent, Request};
use crate::adobe::Claim;
use crate::amf0::Value;
use crate::capabilities::{Capabilities, CapsEx};
use crate::command::{Command, information};
use crate::message::{self, event};
use crate::name::Bounds;
use crate::{Error, limits};

/// Bytes in each piece of text of a request, query included.
const MAX_TEXT: usize = 4096;

/// What a client said in `connect` (RTMP 1.0 §7.2.1.1).
#[derive(Debug)]
pub(super) struct Connection {
    app: String,
    tc_url: String,
    flash_ver: String,
    page_url: String,
    pub(super) capabilities: Capabilities,
    object_encoding: f64,
    transaction_id: f64,
    pub(super) user: Option<String>,
}

impl Connection {
    pub(super) fn parse(command: &Command) -> Result<Self, Error> {
        let object = command.object();
        let text = |name: &str| object.property(name).map_or(Ok(String::new()), text_of);
        let encoding = object.property("objectEncoding").and_then(Value::as_number);
        Ok(Self {
            app: text("app")?,
            tc_url: text("tcUrl")?,
            flash_ver: text("flashVer")?,
            page_url: text("pageUrl")?,
            capabilities: Capabilities::parse(object),
            object_encoding: encoding.unwrap_or(0.0),
            transaction_id: command.transaction_id,
            user: None,
        })
    }

    /// What it says of a user and a password, if it says or has to say anything.
    pub(super) fn claim(&self) -> Option<Claim> {
        Claim::of(&self.app, &self.tc_url)
    }

    pub(super) fn request(&self, intent: Intent, name: String, bounds: Bounds) -> Request {
        Request {
            intent,
            app: self.app.clone(),
            name,
            tc_url: self.tc_url.clone(),
            flash_ver: self.flash_ver.clone(),
            page_url: self.page_url.clone(),
            capabilities: self.capabilities.clone(),
            user: self.user.clone(),
            bounds,
        }
    }

    /// Refuses the connection, in words that a program may read.
    pub(super) fn refuse(&self, description: &str, link: &mut Link) {
        let status = information("error", "NetConnection.Connect.Rejected", description);
        link.command(0, "_error", self.transaction_id, &[Value::Null, status]);
    }

    /// Sends what clients expect, in the order of RTMP 1.0 §7.2.1.1.
    pub(super) fn answer(&self, window: u32, chunk_size: u32, link: &mut Link) {
        let window = window.to_be_bytes();
        link.control(message::WINDOW_ACKNOWLEDGEMENT_SIZE, &window);
        // 2 is "dynamic".
        let bandwidth = [&window[..], &[2]].concat();
        link.control(message::SET_PEER_BANDWIDTH, &bandwidth);
        link.user_control(event::STREAM_BEGIN, 0);
        link.writer.set_chunk_size(chunk_size, &mut link.send);

        let mut server = vec![
            ("fmsVer".to_owned(), "FMS/3,0,1,123".into()),
            ("capabilities".to_owned(), 31.0.into()),
        ];
        if self.capabilities.is_announced() {
            server.extend(Capabilities::forwarder(CapsEx::ALL).properties());
        }
        let mut status =
            information("status", "NetConnection.Connect.Success", "Connection succeeded");
        if let Value::Object(properties) = &mut status {
            let encoding = self.object_encoding.into();
            properties.push(("objectEncoding".to_owned(), encoding));
        }
        let arguments = [Value::Object(server), status];
        link.command(0, "_result", self.transaction_id, &arguments);
    }
}

/// The text of a scalar, empty for anything else.
pub(super) fn text_of(value: &Value) -> Result<String, Error> {
    let text = value.to_string();
    limits::check("bytes in a name", text.len(), MAX_TEXT)?;
    Ok(text)
}
