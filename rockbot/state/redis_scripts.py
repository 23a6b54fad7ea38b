"""What the Redis store does: one script per method, which the server runs whole and alone.

A script reads its arguments one after the other (`take`). Everything is stored under `P`, a hash tag, so that all keys of
a store belong together: `n` and `seq` are counters, `v:` values and `i:` the names of a space in order, `x` when values
end, `s:` streams with their records `r:` and handled messages `h:`, `o:` rows of the outbox, `rows` their order, `touched`
when, and `g:` those of one cause, `due` and `timer` timers, `l:` leases, `a:` amounts, `q:` reservations and `p:` the
open ones of an amount. `spaces`, `streams`, `amounts` and `calls` (reservations by their end) say what there is of these.
"""

from __future__ import annotations

from typing import Final

__all__ = ["READ", "ROWS", "SCRIPTS", "SERVER_CLOCK", "VALUES"]

#: The instant of a script, as Lua.
SERVER_CLOCK: Final = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)"

READ: Final = """
local P = KEYS[1]
local call = redis.call
local place = 0
local function take() place = place + 1 return ARGV[place] end
local function count() return tonumber(take()) end
local function live(until_ms) return until_ms == '' or tonumber(until_ms) > now end
local function version_of(key)
    local held = call('HMGET', P .. ':v:' .. key, 'n', 'x')
    return held[1] and live(held[2]) and tonumber(held[1]) or 0
end
local function rows_of(ids)
    local rows = {}
    for i, id in ipairs(ids) do
        local row = call('HMGET', P .. ':o:' .. id, 'c', 'm', 'd', 'a', 'w')
        rows[i] = {id, row[1], row[2], row[3], row[4], row[5]}
    end
    return rows
end
local function group(owner, cause) return P .. ':g:' .. owner .. '\\0' .. cause end
"""

VALUES: Final = """
local function space(key) return string.match(key, '^[^/]*/[^/]*') or key end
local function remove(key)
    call('DEL', P .. ':v:' .. key)
    call('ZREM', P .. ':i:' .. space(key), key)
    call('ZREM', P .. ':x', key)
end
local function keep(key, data, number, until_ms)
    call('HSET', P .. ':v:' .. key, 'n', number, 'x', until_ms or '', 'd', data)
    if call('ZADD', P .. ':i:' .. space(key), 0, key) == 1 then call('SADD', P .. ':spaces', space(key)) end
    if until_ms then call('ZADD', P .. ':x', until_ms, key) else call('ZREM', P .. ':x', key) end
end
local function set_value(key, data, until_ms)
    local number = call('INCR', P .. ':n')
    if number % 256 == 0 then
        for _, gone in ipairs(call('ZRANGEBYSCORE', P .. ':x', '-inf', now, 'LIMIT', 0, 512)) do remove(gone) end
    end
    keep(key, data, number, until_ms)
    return number
end
local function take_writes()
    local writes = {}
    for i = 1, count() do
        writes[i] = {key = take(), expect = take(), kept = take() == '1', data = take(), ttl = take()}
    end
    return writes
end
local function conflict(writes)
    for i, write in ipairs(writes) do
        write.version = version_of(write.key)
        if write.expect ~= '' and tonumber(write.expect) ~= write.version then return i, write.version end
    end
    return 0, 0
end
local function write_all(writes)
    local version = 0
    for _, write in ipairs(writes) do
        if write.kept then
            version = set_value(write.key, write.data, write.ttl ~= '' and now + tonumber(write.ttl) or nil)
        else
            version = write.version
            remove(write.key)
        end
    end
    return version
end
"""

ROWS: Final = """
local function close_row(id)
    local siblings = call('HGET', P .. ':o:' .. id, 'g')
    if not siblings then return end
    call('DEL', P .. ':o:' .. id)
    call('ZREM', P .. ':rows', id)
    call('ZREM', P .. ':touched', id)
    call('ZREM', siblings, id)
end
local function add_row(owner, sends, touched)
    local id, cause, door, address, awaits, message = take(), take(), take(), take(), take(), take()
    close_row(id)
    local number, siblings = call('INCR', P .. ':seq'), group(owner, cause)
    call('HSET', P .. ':o:' .. id, 'c', cause, 'd', door, 'a', address, 'w', awaits, 'm', message,
        's', sends, 't', touched, 'u', 0, 'b', '', 'g', siblings)
    call('ZADD', P .. ':rows', number, id)
    call('ZADD', P .. ':touched', touched, id)
    call('ZADD', siblings, number, id)
end
local function add_rows(owner)
    for _ = 1, count() do add_row(owner, 0, now) end
end
"""

_BODIES: Final = {
    "now": "return now",
    "get": """
        local key = take()
        local held = call('HMGET', P .. ':v:' .. key, 'd', 'n', 'x')
        return held[2] and live(held[3]) and {held[1], tonumber(held[2])} or false""",
    "write": """
        local writes = take_writes()
        local wrong, version = conflict(writes)
        if wrong > 0 then return {wrong, version} end
        return {0, write_all(writes)}""",
    "page": """
        local index, from, to, limit = P .. ':i:' .. take(), take(), take(), count()
        local found = {}
        while #found <= limit do
            local names = call('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, limit + 1 - #found)
            if #names == 0 then break end
            for _, key in ipairs(names) do
                local held = call('HMGET', P .. ':v:' .. key, 'd', 'n', 'x')
                if live(held[3]) then found[#found + 1] = {key, held[1], tonumber(held[2])} end
            end
            from = '(' .. names[#names]
        end
        return found""",
    "commit": """
        local mark, cause, remember = take(), take(), count()
        local writes = take_writes()
        if version_of(mark) > 0 then return {-1, 0} end
        local wrong, version = conflict(writes)
        if wrong > 0 then return {wrong, version} end
        local number = set_value(mark, cause, now + remember)
        write_all(writes)
        add_rows('c' .. number)
        return {0, number}""",
    "committed": """
        local version, cause = version_of(take()), take()
        return version > 0 and rows_of(call('ZRANGE', group('c' .. version, cause), 0, -1))""",
    "append": """
        local stream, expected, message = take(), count(), take()
        local head = P .. ':s:' .. stream
        local version = tonumber(call('HGET', head, 'v') or '0')
        if call('SISMEMBER', P .. ':h:' .. stream, message) == 1 then return {2, version} end
        if version ~= expected then return {1, version} end
        if version == 0 then call('ZADD', P .. ':streams', 0, stream) end
        local records = count()
        for _ = 1, records do call('RPUSH', P .. ':r:' .. stream, string.format('%.0f\\n', now) .. take()) end
        version = version + records
        call('HSET', head, 'v', version)
        call('SADD', P .. ':h:' .. stream, message)
        if take() == '1' then call('HSET', head, 'sv', version, 'sd', take()) else take() end
        for _ = 1, count() do close_row(take()) end
        add_rows('s' .. stream)
        for _ = 1, count() do
            local id = take()
            call('ZREM', P .. ':due', id)
            call('HDEL', P .. ':timer', id)
        end
        for _ = 1, count() do
            local id, due, payload = take(), take(), take()
            call('ZADD', P .. ':due', due, id)
            call('HSET', P .. ':timer', id, payload)
        end
        for _ = 1, count() do
            local key, kept, data = take(), take(), take()
            if kept == '1' then set_value(key, data, nil) else remove(key) end
        end
        return {0, version}""",
    "load": """
        local stream, handled = take(), take()
        local held = call('HMGET', P .. ':s:' .. stream, 'v', 'sv', 'sd')
        if not held[1] then return false end
        local kept = tonumber(held[2] or '0')
        return {tonumber(held[1]), kept, held[3] or '', call('LRANGE', P .. ':r:' .. stream, kept, -1),
            call('SISMEMBER', P .. ':h:' .. stream, handled),
            handled ~= '' and rows_of(call('ZRANGE', group('s' .. stream, handled), 0, -1)) or {}}""",
    "read": "return call('LRANGE', P .. ':r:' .. take(), take(), take())",
    "mark_sent": """
        for _ = 1, count() do
            local id = take()
            local awaits = call('HGET', P .. ':o:' .. id, 'w')
            if awaits == '0' then
                close_row(id)
            elseif awaits then
                call('HINCRBY', P .. ':o:' .. id, 's', 1)
                call('HSET', P .. ':o:' .. id, 't', now, 'u', 0)
                call('ZADD', P .. ':touched', now, id)
            end
        end
        return 0""",
    # Few candidates are sorted; among many, the oldest rows are looked at until there are enough.
    "claim": """
        local owner, idle, claim, longest, limit = take(), count(), count(), count(), count()
        local candidates = call('ZCOUNT', P .. ':touched', '-inf', now - idle)
        local claimed = {}
        local function consider(id)
            local row = call('HMGET', P .. ':o:' .. id, 's', 't', 'u')
            local sends, touched = tonumber(row[1]), tonumber(row[2])
            local wait = math.min(longest, idle * 2 ^ math.min(math.max(sends - 1, 0), 20))
            if touched > now - idle or touched + wait > now or tonumber(row[3]) > now then return end
            call('HSET', P .. ':o:' .. id, 't', now, 'u', now + claim, 'b', owner)
            call('ZADD', P .. ':touched', now, id)
            claimed[#claimed + 1] = id
        end
        if candidates <= 1000 then
            local rows = {}
            for _, id in ipairs(call('ZRANGEBYSCORE', P .. ':touched', '-inf', now - idle)) do
                rows[#rows + 1] = {id, tonumber(call('ZSCORE', P .. ':rows', id))}
            end
            table.sort(rows, function(a, b) return a[2] < b[2] end)
            for _, row in ipairs(rows) do
                if #claimed == limit then break end
                consider(row[1])
            end
        else
            local from = 0
            while #claimed < limit do
                local ids = call('ZRANGE', P .. ':rows', from, from + 255)
                if #ids == 0 then break end
                for _, id in ipairs(ids) do
                    if #claimed == limit then break end
                    consider(id)
                end
                from = from + 256
            end
        end
        return rows_of(claimed)""",
    "due": """
        local found = call('ZRANGEBYSCORE', P .. ':due', '-inf', take(), 'WITHSCORES', 'LIMIT', 0, take())
        local timers = {}
        for i = 1, #found, 2 do
            timers[#timers + 1] = {found[i], found[i + 1], call('HGET', P .. ':timer', found[i])}
        end
        return timers""",
    "drop_timers": """
        for _ = 1, count() do
            local id, due = take(), count()
            if tonumber(call('ZSCORE', P .. ':due', id) or 'nan') == due then
                call('ZREM', P .. ':due', id)
                call('HDEL', P .. ':timer', id)
            end
        end
        return 0""",
    # What is left of a lease or a reservation that is long over, Redis removes by itself.
    "acquire_lease": """
        local name, owner, ttl = P .. ':l:' .. take(), take(), count()
        local held = call('HMGET', name, 'o', 'n', 'x')
        local token
        if held[1] and live(held[3]) then
            if held[1] ~= owner then return false end
            token = tonumber(held[2])
        else
            token = call('INCR', P .. ':n')
        end
        call('HSET', name, 'o', owner, 'n', token, 'x', now + ttl)
        call('PEXPIRE', name, ttl + 60000)
        return {token, now + ttl}""",
    "release_lease": """
        local name, token = P .. ':l:' .. take(), take()
        if call('HGET', name, 'n') == token then call('DEL', name) end
        return 0""",
    "reserve": """
        local key, amount, limit, id, ttl, remember = take(), take(), count(), take(), count(), count()
        local name, open = P .. ':q:' .. id, P .. ':p:' .. key
        local taken, wanted, until_ms = tonumber(call('GET', P .. ':a:' .. key) or '0'), tonumber(amount), now + ttl
        call('ZREMRANGEBYSCORE', open, '-inf', now)
        for _, other in ipairs(call('ZRANGE', open, 0, -1)) do
            taken = taken + tonumber(call('HGET', P .. ':q:' .. other, 'a'))
        end
        local function told(granted) return {granted, string.format('%.17g', taken)} end
        local held = call('HMGET', name, 'k', 's', 'x')
        if held[1] and (held[2] == '1' or live(held[3])) then
            until_ms = math.max(until_ms, tonumber(held[3]))
            call('HSET', name, 'x', until_ms)
            call('PEXPIRE', name, until_ms - now + remember)
            call('ZADD', P .. ':calls', until_ms, id)
            if held[2] == '0' then call('ZADD', P .. ':p:' .. held[1], until_ms, id) end
            return told(1)
        end
        if taken + wanted > limit + math.abs(limit) * 1e-9 then return told(0) end
        if held[1] then call('ZREM', P .. ':p:' .. held[1], id) end
        call('HSET', name, 'k', key, 'a', amount, 's', 0, 'x', until_ms)
        call('PEXPIRE', name, ttl + remember)
        call('ZADD', P .. ':calls', until_ms, id)
        call('ZREMRANGEBYSCORE', P .. ':calls', '-inf', now - remember)
        call('ZADD', open, until_ms, id)
        taken = taken + wanted
        return told(1)""",
    "settle": """
        local id, actual, remember = take(), count(), count()
        local name = P .. ':q:' .. id
        local held = call('HMGET', name, 'k', 's', 'x')
        if not held[1] then return 0 end
        if held[2] == '1' then return 1 end
        call('ZREM', P .. ':p:' .. held[1], id)
        if actual == 0 then
            call('DEL', name)
            call('ZREM', P .. ':calls', id)
            return 1
        end
        local until_ms = math.max(tonumber(held[3]), now)
        call('HSET', name, 's', 1, 'x', until_ms)
        call('PEXPIRE', name, until_ms - now + remember)
        call('ZADD', P .. ':calls', until_ms, id)
        call('ZADD', P .. ':amounts', 0, held[1])
        local sum = P .. ':a:' .. held[1]
        call('SET', sum, string.format('%.17g', tonumber(call('GET', sum) or '0') + actual))
        return 1""",
}
_NEEDS: Final = {"write": VALUES, "commit": VALUES + ROWS, "append": VALUES + ROWS, "mark_sent": ROWS}

#: Each script by its name, without the clock that goes before it.
SCRIPTS: Final = {name: READ + _NEEDS.get(name, "") + body for name, body in _BODIES.items()}
