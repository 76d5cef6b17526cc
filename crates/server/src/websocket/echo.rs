//! A server that returns every message, for the cases of the Autobahn suite: `cargo xtask
//! autobahn`.
//!
//! It drops a connection where the room server would. Its HTTP is just enough for the suite.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Event, FrameReader, Opcode, accept, write_frame};

/// The suite's longest message has 16 MiB.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[tokio::test]
#[ignore = "serves until it is ended: see `cargo xtask autobahn`"]
async fn serves_the_autobahn_suite() {
    let address = std::env::var("AUTOBAHN_ADDRESS").expect("where to listen");
    let listener = TcpListener::bind(&address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // The suite uses one connection at a time.
        let _ended = serve(stream).await;
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = FrameReader::new(MAX_MESSAGE_BYTES);
    reader.text = Some(false);
    let rest = shake_hands(&mut stream).await?;
    reader.handle_bytes(&rest);
    loop {
        match reader.poll_event() {
            Ok(None) => {
                reader.receive(&mut stream).await?;
            }
            Ok(Some(Event::Message(message))) => {
                let opcode = match reader.text {
                    Some(true) => Opcode::Text,
                    _ => Opcode::Binary,
                };
                write_frame(&mut stream, opcode, &message).await?;
            }
            Ok(Some(Event::Ping(payload))) => {
                write_frame(&mut stream, Opcode::Pong, &payload).await?;
            }
            Ok(Some(Event::Fragment | Event::Pong)) => {}
            Ok(Some(Event::Close)) => {
                return write_frame(&mut stream, Opcode::Close, &1000_u16.to_be_bytes()).await;
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Answers a handshake, and returns the bytes that followed it.
async fn shake_hands(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut received = Vec::new();
    let end = loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1) {
        if let Some((name, value)) = line.split_once(": ") {
            headers.append(
                HeaderName::try_from(name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
    }
    let response = accept::<()>(&headers).expect("the suite's handshakes are good");
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    for (name, value) in response.headers() {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend(b"\r\n");
    stream.write_all(&answer).await?;
    Ok(received.split_off(end))
}
