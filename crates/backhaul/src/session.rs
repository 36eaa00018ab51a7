use bytes::{Bytes, BytesMut};

use crate::{Error, Hello, Message, Refusal, VERSION, Welcome};

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Called out: a studio.
    Dialer,
    /// Was called: a relay.
    Acceptor,
}

/// What a peer's control stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To the acceptor: somebody wants in. Answer with [`Session::welcome`] or
    /// [`Session::refuse`].
    Hello(Hello),
    /// To the dialer: the peer let us in.
    Open(Welcome),
    /// To the dialer: the peer did not.
    Refused(Refusal, String),
    /// A message on an open session.
    Message(Message),
}

/// The conversation on a link's control stream.
///
/// ```text
///            Dialer                           Acceptor
///   hello ->  Greeting                         Listening
///             Greeting   <- welcome            Deciding (hello was read)
///             Open                             Open
/// ```
///
/// Bytes in by [`handle_input`](Self::handle_input), then [`poll_event`](Self::poll_event) until
/// `None`; bytes out by [`take_output`](Self::take_output). After an error, or a refusal, the
/// link is to be closed once the output was written.
#[derive(Debug)]
pub struct Session {
    role: Role,
    state: State,
    input: BytesMut,
    output: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Acceptor: no hello yet.
    Listening,
    /// Acceptor: a hello waits for its answer.
    Deciding,
    /// Dialer: the hello was sent.
    Greeting,
    Open,
    Closed,
}

impl Session {
    /// The end that calls, with its first message.
    pub fn dial(hello: Hello) -> Self {
        let mut session = Self::new(Role::Dialer, State::Greeting);
        Message::Hello(hello).encode(&mut session.output);
        session
    }

    /// The end that is called.
    pub fn accept() -> Self {
        Self::new(Role::Acceptor, State::Listening)
    }

    fn new(role: Role, state: State) -> Self {
        Self { role, state, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Takes bytes of the peer's control stream.
    pub fn handle_input(&mut self, input: &[u8]) {
        self.input.extend_from_slice(input);
    }

    /// The next thing the peer said; `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// [`Error`] if the peer broke the protocol; the session is closed.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Error> {
        let event = self.next_event();
        if event.is_err() {
            self.state = State::Closed;
        }
        event
    }

    fn next_event(&mut self) -> Result<Option<Event>, Error> {
        // What follows a hello waits until it is answered.
        if matches!(self.state, State::Deciding | State::Closed) {
            return Ok(None);
        }
        let Some(message) = Message::decode(&mut self.input)? else {
            return Ok(None);
        };
        let event = match (self.state, message) {
            (State::Listening, Message::Hello(hello)) => {
                self.state = State::Deciding;
                Event::Hello(hello)
            }
            (State::Greeting, Message::Welcome(welcome)) if welcome.version == VERSION => {
                self.state = State::Open;
                Event::Open(welcome)
            }
            (State::Greeting, Message::Welcome(_)) => {
                return Err(Error::Misbehaved("it chose a version that was not offered"));
            }
            (State::Greeting, Message::Refused(refusal, text)) => {
                self.state = State::Closed;
                Event::Refused(refusal, text)
            }
            (State::Open, message) => {
                self.check(&message)?;
                Event::Message(message)
            }
            _ => return Err(Error::Misbehaved("a message before the session was open")),
        };
        Ok(Some(event))
    }

    /// Who may say what on an open session.
    fn check(&self, message: &Message) -> Result<(), Error> {
        let is_allowed = match message {
            Message::Hello(_) | Message::Welcome(_) | Message::Refused(..) => false,
            Message::Feeds(_) | Message::Logins(_) => self.role == Role::Acceptor,
            Message::FeedProblem(_) | Message::Load(_) => self.role == Role::Dialer,
            _ => true,
        };
        if is_allowed {
            Ok(())
        } else {
            Err(Error::Misbehaved("a message that is not its to send"))
        }
    }

    /// Lets the peer in.
    pub fn welcome(&mut self, welcome: Welcome) {
        debug_assert_eq!(self.state, State::Deciding, "a welcome answers a hello");
        self.state = State::Open;
        Message::Welcome(welcome).encode(&mut self.output);
    }

    /// Turns the peer away.
    pub fn refuse(&mut self, refusal: Refusal, text: &str) {
        debug_assert_eq!(self.state, State::Deciding, "a refusal answers a hello");
        self.state = State::Closed;
        Message::Refused(refusal, text.to_owned()).encode(&mut self.output);
    }

    /// Says something on an open session; without effect on another.
    pub fn send(&mut self, message: &Message) {
        if self.state == State::Open {
            message.encode(&mut self.output);
        }
    }

    /// Whether the session is open.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// How many bytes wait for [`take_output`](Self::take_output).
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Bytes to write to the control stream; empty if there are none.
    pub fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: vec![VERSION],
            instance: [1; 16],
            agent: "test".into(),
            name: "studio".into(),
            invite: String::new(),
        }
    }

    fn welcome() -> Welcome {
        Welcome {
            version: VERSION,
            agent: "test".into(),
            host: String::new(),
            rtmp_port: 1935,
            rtmps_port: None,
            region: String::new(),
            measures: false,
        }
    }

    fn pass(from: &mut Session, to: &mut Session) {
        to.handle_input(&from.take_output());
    }

    fn open() -> (Session, Session) {
        let (mut dialer, mut acceptor) = (Session::dial(hello()), Session::accept());
        pass(&mut dialer, &mut acceptor);
        assert_eq!(acceptor.poll_event(), Ok(Some(Event::Hello(hello()))));
        acceptor.welcome(welcome());
        pass(&mut acceptor, &mut dialer);
        assert_eq!(dialer.poll_event(), Ok(Some(Event::Open(welcome()))));
        (dialer, acceptor)
    }

    #[test]
    fn a_session_opens_and_carries_messages_both_ways() {
        let (mut dialer, mut acceptor) = open();
        dialer.send(&Message::Feeds(Vec::new()));
        pass(&mut dialer, &mut acceptor);
        assert_eq!(acceptor.poll_event(), Ok(Some(Event::Message(Message::Feeds(Vec::new())))));
        acceptor.send(&Message::Unsubscribe(1));
        pass(&mut acceptor, &mut dialer);
        assert_eq!(dialer.poll_event(), Ok(Some(Event::Message(Message::Unsubscribe(1)))));
    }

    #[test]
    fn a_refusal_closes_the_session() {
        let (mut dialer, mut acceptor) = (Session::dial(hello()), Session::accept());
        pass(&mut dialer, &mut acceptor);
        acceptor.poll_event().unwrap();
        acceptor.refuse(Refusal::Full, "come back later");
        pass(&mut acceptor, &mut dialer);
        let refused = Event::Refused(Refusal::Full, "come back later".into());
        assert_eq!(dialer.poll_event(), Ok(Some(refused)));
        dialer.send(&Message::Unsubscribe(1));
        assert!(dialer.take_output().is_empty());
    }

    #[test]
    fn messages_out_of_turn_are_refused() {
        let mut early = BytesMut::new();
        Message::Feeds(Vec::new()).encode(&mut early);
        let mut acceptor = Session::accept();
        acceptor.handle_input(&early);
        assert!(matches!(acceptor.poll_event(), Err(Error::Misbehaved(_))));
        let (mut dialer, _) = open();
        dialer.handle_input(&early);
        assert!(matches!(dialer.poll_event(), Err(Error::Misbehaved(_))), "a relay has no feeds");
        let (_, mut acceptor) = open();
        let mut again = Session::dial(hello());
        pass(&mut again, &mut acceptor);
        assert!(matches!(acceptor.poll_event(), Err(Error::Misbehaved(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut dialer, mut acceptor) = open();
            for session in [&mut dialer, &mut acceptor, &mut Session::accept()] {
                session.handle_input(&bytes);
                while let Ok(Some(_)) = session.poll_event() {}
            }
        }
    }
}
