//! A minimal HTTP client over a plain socket, with one request per connection.
//!
//! Tests read metrics with it, follow download URLs, and check the status of a refused WebSocket
//! upgrade.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};

use crate::process::STEP_LIMIT;

/// Responses in tests are small. The bound keeps a broken server from filling the memory.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// A server's response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without transfer encoding.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// The first header with this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request to an absolute `http:` URL and reads the whole response.
///
/// # Errors
/// When the URL has another scheme, the server can't be reached, or the response is not HTTP.
pub fn http_request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<HttpResponse> {
    let length = body.len().to_string();
    let mut all = vec![("connection", "close"), ("content-length", length.as_str())];
    all.extend_from_slice(headers);
    let mut reader = send(method, url, &all, body)?;
    let mut response = read_head(&mut reader)?;
    response.body = if response.header("transfer-encoding") == Some("chunked") {
        read_chunks(&mut reader)?
    } else {
        let length = response
            .header("content-length")
            .and_then(|text| text.parse().ok());
        let mut body = Vec::new();
        reader
            .take(length.unwrap_or(MAX_BODY_BYTES))
            .read_to_end(&mut body)?;
        body
    };
    Ok(response)
}

/// Requests an upgrade to WebSocket, reads the head of the response and closes the connection.
///
/// # Errors
/// As [`http_request`].
pub fn http_upgrade(url: &str, headers: &[(&str, &str)]) -> Result<HttpResponse> {
    let mut all = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    all.extend_from_slice(headers);
    read_head(&mut send("GET", url, &all, &[])?)
}

fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<BufReader<TcpStream>> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("invalid URL {url:?}: expected the scheme http:"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    let mut head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(BufReader::new(stream))
}

fn read_head(reader: &mut BufReader<TcpStream>) -> Result<HttpResponse> {
    let status_line = read_line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("invalid HTTP status line: {status_line:?}"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            ensure!(line.is_empty(), "invalid HTTP header line: {line:?}");
            return Ok(HttpResponse {
                status,
                headers,
                body: Vec::new(),
            });
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16)
            .with_context(|| format!("invalid chunk size: {line:?}"))?;
        ensure!(
            body.len() as u64 + size <= MAX_BODY_BYTES,
            "the response body is longer than {MAX_BODY_BYTES} bytes"
        );
        reader.by_ref().take(size).read_to_end(&mut body)?;
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    reader
        .take(64 << 10)
        .read_line(&mut line)
        .context("reading an HTTP line")?;
    Ok(line.trim_end().to_owned())
}
