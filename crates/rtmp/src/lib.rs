//! Sans-IO RTMP: handshake, chunk stream, AMF, server and client sessions.
