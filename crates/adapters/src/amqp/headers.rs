//! Text headers to and from AMQP's properties and header table.
//!
//! Published headers are long strings; `reply-to` and `correlation-id` are the properties of these names. Of received
//! headers, text and numbers of any AMQP type are read as text. Tables, lists, the broker's own headers (`x-…`), `CC` and
//! `BCC` are left out: if `CC` and `BCC` were published again, the broker would route copies to other queues, and written as
//! text they would close the channel.

use std::collections::BTreeMap;

use echogen_ports::{DEAD_LETTER_REASON, DEAD_LETTER_TIME, Fault, Message};
use echogen_protocol::ReplyTo;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// Headers that are read of one message; more are left out.
const MAX_HEADERS: usize = 64;

/// Bytes of one header's text that is read; a longer one is left out.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Bytes of all headers that are read of one message.
const MAX_READ_BYTES: usize = 32 * 1024;

/// Bytes of all headers that are published with one message. They must fit into one frame, 128 KiB by default; otherwise
/// the broker closes the connection.
const MAX_WRITTEN_BYTES: usize = 64 * 1024;

/// The header that carries the job's id, which is also the message's id.
const JOB: &str = "echogen-job";

const PERSISTENT: u8 = 2;

/// RabbitMQ's pseudo-queue for direct replies. The broker replaces it by a generated name in a client's request, so a
/// received message carries it only if the client wrote it into the header table itself.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// The properties of a message to be published.
pub(super) fn properties(headers: &BTreeMap<String, String>) -> Result<BasicProperties, Fault> {
    let bytes: usize = headers.iter().map(|(name, text)| name.len() + text.len() + 8).sum();
    if bytes > MAX_WRITTEN_BYTES {
        let limit = MAX_WRITTEN_BYTES;
        return Err(Fault::too_large(format!("the headers have {bytes} bytes; the limit is {limit}")));
    }
    let mut properties =
        BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(PERSISTENT);
    let mut table = FieldTable::default();
    for (name, text) in headers {
        let as_property = ShortString::try_new(text.as_str()).ok();
        match (name.as_str(), as_property) {
            // The broker takes this name as a request for direct replies and closes a channel that does not consume them.
            (ReplyTo::QUEUE_HEADER, Some(queue)) if queue.as_str() == DIRECT_REPLY => {}
            (ReplyTo::QUEUE_HEADER, Some(queue)) => properties = properties.with_reply_to(queue),
            (ReplyTo::CORRELATION_HEADER, Some(id)) => properties = properties.with_correlation_id(id),
            (name, as_property) => {
                if let (JOB, Some(id)) = (name, as_property) {
                    properties = properties.with_message_id(id);
                }
                table.insert(super::declare::short(name)?, AMQPValue::LongString(text.as_str().into()));
            }
        }
    }
    Ok(properties.with_headers(table))
}

/// The properties of an event's message.
pub(super) fn event_properties() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/cloudevents+json; charset=utf-8".into())
        .with_delivery_mode(PERSISTENT)
}

/// A received message, and how often it was delivered before.
pub(super) fn message(data: Vec<u8>, properties: &BasicProperties, redelivered: bool) -> (Message, u32) {
    let mut headers = BTreeMap::new();
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    read(table, &mut headers);
    let mut property = |name: &str, value: &Option<ShortString>| {
        if let Some(value) = value {
            headers.insert(name.to_owned(), value.as_str().to_owned());
        }
    };
    property(ReplyTo::QUEUE_HEADER, properties.reply_to());
    property(ReplyTo::CORRELATION_HEADER, properties.correlation_id());
    if let Some((reason, time)) = given_up(table) {
        headers.entry(DEAD_LETTER_REASON.to_owned()).or_insert(reason);
        if let Some(time) = time {
            headers.entry(DEAD_LETTER_TIME.to_owned()).or_insert(time);
        }
    }
    // Newer brokers count deliveries and failed deliveries separately; the larger one is the number of deliveries.
    let counted = ["x-delivery-count", "x-acquired-count"].iter().filter_map(|name| number(table, name)).max();
    let redeliveries = counted.unwrap_or(0).max(u32::from(redelivered));
    (Message { body: data.into(), headers }, redeliveries)
}

fn read(table: &FieldTable, headers: &mut BTreeMap<String, String>) {
    let mut bytes = 0;
    for (name, value) in table {
        let name = name.as_str();
        if name.starts_with("x-") || name == "CC" || name == "BCC" {
            continue;
        }
        let Some(text) = text(value).filter(|text| text.len() <= MAX_HEADER_BYTES) else { continue };
        bytes += name.len() + text.len();
        if headers.len() == MAX_HEADERS || bytes > MAX_READ_BYTES {
            break;
        }
        headers.insert(name.to_owned(), text);
    }
}

/// A header's value as text; `None` for a table, a list, or bytes that are not UTF-8.
fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok().map(str::to_owned),
        AMQPValue::Boolean(value) => Some(value.to_string()),
        AMQPValue::Float(value) => Some(value.to_string()),
        AMQPValue::Double(value) => Some(value.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        value => integer(value).map(|number| number.to_string()),
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

fn number(table: &FieldTable, name: &str) -> Option<u32> {
    let number = integer(table.inner().get(name)?)?;
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// Why and when the broker itself dead-lettered a message, from the newest entry of `x-death`. The end of a retry's wait is
/// also recorded there, and is not such a reason.
fn given_up(table: &FieldTable) -> Option<(String, Option<String>)> {
    let AMQPValue::FieldArray(deaths) = table.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    let word = |name: &str| death.inner().get(name).and_then(text);
    let (reason, queue) = (word("reason")?, word("queue").unwrap_or_default());
    let reason = match reason.as_str() {
        "delivery_limit" => format!(
            "the broker gave it up: it came back to {queue} unsettled more often than the delivery limit allows; it may \
             kill its worker"
        ),
        "rejected" | "maxlen" => format!("the broker gave it up: {reason} in {queue}"),
        _ => return None,
    };
    let time = match death.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => {
            i64::try_from(*seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        }
        _ => None,
    };
    Some((reason, time.map(|time| time.to_string())))
}

#[cfg(test)]
mod tests;
