//! The scripts that the server runs atomically. The server stores each script under its hash, and a call sends only the
//! hash; the client library sends the script itself if the server does not have it, as after a restart or `SCRIPT FLUSH`.

use std::sync::LazyLock;

use ::redis::Script;

/// Acquires a lease. Tokens are the larger of the last one plus 1 and the server's time in microseconds, so they grow
/// also when the counter was lost. Both fit a Lua number, which is exact to 2^53.
pub(super) static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
if last >= token then token = last + 1 end
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[2])
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
return text",
    )
});

/// Renews a lease if the token still holds it.
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1",
    )
});

/// Releases a lease if the token still holds it.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1",
    )
});

/// Reads a value of at most so many bytes; of a larger one only its size.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local size = redis.call('STRLEN', KEYS[1])
if size > tonumber(ARGV[1]) then return size end
return redis.call('GET', KEYS[1])",
    )
});
