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

/// Takes permits of a rate (GCRA). The key holds the time in microseconds at which the whole burst is there again; all
/// numbers are whole and fit a Lua number. A lowered rate or a clock that was set back locks nobody out for longer than a
/// burst. Returns whether they were taken, how many are left, and the waits for them and for the whole burst.
pub(super) static CHARGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local interval, cost = tonumber(ARGV[1]), tonumber(ARGV[3])
local burst = interval * tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local whole = tonumber(redis.call('GET', KEYS[1]) or 0)
whole = math.min(math.max(whole, now), now + burst)
local late = whole + interval * cost - now - burst
local allowed = 0
if late <= 0 then
  allowed, late = 1, 0
  whole = whole + interval * cost
  if cost > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', whole), 'PX', math.ceil((whole - now) / 1000))
  end
end
return {allowed, math.floor((now + burst - whole) / interval), late, whole - now}",
    )
});

/// Adds to a counter unless it would pass the limit. Its time to live is that of its first addition.
pub(super) static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local used, add = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])
if used + add > tonumber(ARGV[2]) then return {0, used} end
if add > 0 then
  used = redis.call('INCRBY', KEYS[1], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
end
return {1, used}",
    )
});

/// Puts an id into a sorted set, whose scores are the times in milliseconds at which the ids disappear. The key lives as long
/// as its last id.
pub(super) static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if held >= tonumber(ARGV[2]) then return {0, held} end
  held = held + 1
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last[2])))
return {1, held}",
    )
});

/// Counts the ids of such a set that have not disappeared.
pub(super) static HELD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf')",
    )
});

/// Returns the ids of such a set that have not disappeared.
pub(super) static MEMBERS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')",
    )
});
