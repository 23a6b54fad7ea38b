"""The scripts of the Redis store that look at all of it: each works on one page, so that the server is never kept for long.

A page script takes where to begin and how many, and returns rows whose first columns are their place.
"""

from __future__ import annotations

from typing import Final

from rockbot.state.items import DUMP_BYTES
from rockbot.state.redis_scripts import READ, ROWS, VALUES

__all__ = ["WHOLE_SCRIPTS"]

# A page that is not the last ends with false.
_PAGES: Final = (
    f"local found, size, most, limit = {{}}, 0, {DUMP_BYTES}, 0"
    """
local function add(row, length)
    if #found == limit or size >= most then
        found[#found + 1] = false
        return false
    end
    found[#found + 1] = row
    size = size + length
    return true
end
local function by_name(index, from, act)
    while true do
        local names = call('ZRANGEBYLEX', index, from, '+', 'LIMIT', 0, 64)
        if #names == 0 then return end
        for _, name in ipairs(names) do
            if not act(name) then return false end
        end
        from = '(' .. names[#names]
    end
end
local function by_score(index, score, behind, act)
    local from = 0
    while true do
        local names = call('ZRANGEBYSCORE', index, score, '+inf', 'WITHSCORES', 'LIMIT', from, 64)
        if #names == 0 then return end
        for i = 1, #names, 2 do
            if tonumber(names[i + 1]) > tonumber(score) or names[i] > behind or behind == '' then
                if not act(names[i], names[i + 1]) then return false end
            end
        end
        from = from + 64
    end
end
"""
)

_DUMPS: Final = {
    "dump_value": """
        local after = take()
        limit = count()
        local spaces = call('SMEMBERS', P .. ':spaces')
        table.sort(spaces)
        for _, one in ipairs(spaces) do
            if after == '' or one >= space(after) then
                local from = (after ~= '' and one == space(after)) and '(' .. after or '-'
                if by_name(P .. ':i:' .. one, from, function(key)
                    local held = call('HMGET', P .. ':v:' .. key, 'd', 'n', 'x')
                    if not live(held[3]) then return true end
                    return add({key, held[1], held[2], held[3]}, #held[1])
                end) == false then break end
            end
        end
        return found""",
    "dump_stream": """
        local after = take()
        limit = count()
        by_name(P .. ':streams', after == '' and '-' or '(' .. after, function(name) return add({name}, 0) end)
        return found""",
    "dump_record": """
        local after, version = take(), count()
        limit = count()
        by_name(P .. ':streams', after == '' and '-' or '[' .. after, function(name)
            local at = name == after and version or 0
            while true do
                local texts = call('LRANGE', P .. ':r:' .. name, at, at + 15)
                if #texts == 0 then return true end
                for _, text in ipairs(texts) do
                    at = at + 1
                    if not add({name, at, text}, #text) then return false end
                end
            end
        end)
        return found""",
    "dump_handled": """
        local after, behind = take(), take()
        limit = count()
        by_name(P .. ':streams', after == '' and '-' or '[' .. after, function(name)
            local messages = call('SMEMBERS', P .. ':h:' .. name)
            table.sort(messages)
            for _, message in ipairs(messages) do
                if name ~= after or message > behind then
                    if not add({name, message}, 0) then return false end
                end
            end
            return true
        end)
        return found""",
    "dump_snapshot": """
        local after = take()
        limit = count()
        by_name(P .. ':streams', after == '' and '-' or '(' .. after, function(name)
            local held = call('HMGET', P .. ':s:' .. name, 'sv', 'sd')
            return not held[1] or add({name, held[1], held[2]}, #held[2])
        end)
        return found""",
    "dump_row": """
        local score = take()
        limit = count()
        by_score(P .. ':rows', score, '\\255', function(id, number)
            local row = call('HMGET', P .. ':o:' .. id, 'c', 'm', 'd', 'a', 'w', 's', 't', 'g')
            local owner = string.match(string.sub(row[8], #P + 4), '^[^%z]*')
            return add({number, id, row[1], row[2], row[3], row[4], row[5], owner, row[6], row[7]}, #row[2])
        end)
        return found""",
    "dump_timer": """
        local score, behind = take(), take()
        limit = count()
        by_score(P .. ':due', score, behind, function(id, due)
            local payload = call('HGET', P .. ':timer', id)
            return add({due, id, payload}, #payload)
        end)
        return found""",
    "dump_amount": """
        local after = take()
        limit = count()
        by_name(P .. ':amounts', after == '' and '-' or '(' .. after, function(name)
            return add({name, call('GET', P .. ':a:' .. name)}, 0)
        end)
        return found""",
    "dump_reservation": """
        local score, behind = take(), take()
        limit = count()
        by_score(P .. ':calls', score, behind, function(id)
            local held = call('HMGET', P .. ':q:' .. id, 'k', 'a', 's', 'x')
            return not held[1] or add({held[4], id, held[1], held[2], held[3]}, 0)
        end)
        return found""",
}

_STREAMS: Final = """
local function remove_stream(name, gone)
    local handled = call('SMEMBERS', P .. ':h:' .. name)
    for _, cause in ipairs(handled) do
        for _, id in ipairs(call('ZRANGE', group('s' .. name, cause), 0, -1)) do
            close_row(id)
            gone.row = gone.row + 1
        end
    end
    gone.stream = gone.stream + call('EXISTS', P .. ':s:' .. name)
    gone.record = gone.record + call('LLEN', P .. ':r:' .. name)
    gone.handled = gone.handled + #handled
    gone.snapshot = gone.snapshot + call('HEXISTS', P .. ':s:' .. name, 'sv')
    call('DEL', P .. ':s:' .. name, P .. ':r:' .. name, P .. ':h:' .. name)
    call('ZREM', P .. ':streams', name)
end
local function nothing() return {stream = 0, record = 0, handled = 0, snapshot = 0, row = 0, value = 0} end
local function told(gone)
    return {gone.value, gone.stream, gone.record, gone.handled, gone.snapshot, gone.row}
end
"""

_CHANGES: Final = {
    "restore_number": """
        for _ = 1, count() do
            local given = take()
            if tonumber(given) > tonumber(call('GET', P .. ':n') or '0') then call('SET', P .. ':n', given) end
        end
        return 0""",
    "restore_value": """
        for _ = 1, count() do
            local key, data, number, until_ms = take(), take(), take(), take()
            keep(key, data, number, until_ms ~= '' and until_ms or nil)
        end
        return 0""",
    "restore_stream": """
        for _ = 1, count() do
            local name = take()
            remove_stream(name, nothing())
            call('HSET', P .. ':s:' .. name, 'v', 0)
            call('ZADD', P .. ':streams', 0, name)
        end
        return 0""",
    "restore_record": """
        for _ = 1, count() do
            local name, version, text = take(), count(), take()
            if version > tonumber(call('HGET', P .. ':s:' .. name, 'v')) then
                call('RPUSH', P .. ':r:' .. name, text)
                call('HSET', P .. ':s:' .. name, 'v', version)
            end
        end
        return 0""",
    "restore_handled": """
        for _ = 1, count() do call('SADD', P .. ':h:' .. take(), take()) end
        return 0""",
    "restore_snapshot": """
        for _ = 1, count() do call('HSET', P .. ':s:' .. take(), 'sv', take(), 'sd', take()) end
        return 0""",
    "restore_row": """
        for _ = 1, count() do add_row(take(), take(), take()) end
        return 0""",
    "restore_timer": """
        for _ = 1, count() do
            local id, due, payload = take(), take(), take()
            call('ZADD', P .. ':due', due, id)
            call('HSET', P .. ':timer', id, payload)
        end
        return 0""",
    "restore_amount": """
        for _ = 1, count() do
            local name, settled = take(), take()
            call('SET', P .. ':a:' .. name, settled)
            call('ZADD', P .. ':amounts', 0, name)
        end
        return 0""",
    "restore_reservation": """
        local remember = count()
        for _ = 1, count() do
            local id, key, amount, until_ms, settled = take(), take(), take(), count(), take()
            local name = P .. ':q:' .. id
            call('HSET', name, 'k', key, 'a', amount, 's', settled, 'x', until_ms)
            call('PEXPIRE', name, until_ms - now + remember)
            call('ZADD', P .. ':calls', until_ms, id)
            if settled == '0' then call('ZADD', P .. ':p:' .. key, until_ms, id) end
        end
        return 0""",
    "erase_streams": """
        local exact, from, to, gone = take(), take(), take(), nothing()
        local names = call('ZRANGEBYLEX', P .. ':streams', from, to, 'LIMIT', 0, 64)
        names[#names + 1] = exact
        for _, name in ipairs(names) do remove_stream(name, gone) end
        return told(gone)""",
    # The mark of a commit takes its rows along: their groups begin with its version.
    "erase_values": """
        local index, exact, from, to, gone = P .. ':i:' .. take(), take(), take(), take(), nothing()
        local names = call('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, 64)
        names[#names + 1] = exact
        for _, key in ipairs(names) do
            local held = call('HMGET', P .. ':v:' .. key, 'n', 'd')
            if held[1] then
                for _, id in ipairs(call('ZRANGE', group('c' .. held[1], held[2]), 0, -1)) do
                    close_row(id)
                    gone.row = gone.row + 1
                end
                remove(key)
                gone.value = gone.value + 1
            end
        end
        return told(gone)""",
    "erase_timers": """
        local gone = 0
        for _ = 1, count() do
            local id = take()
            gone = gone + call('ZREM', P .. ':due', id)
            call('HDEL', P .. ':timer', id)
        end
        return gone""",
    "erase_amounts": """
        local gone = 0
        for _ = 1, count() do
            local name = take()
            gone = gone + call('ZREM', P .. ':amounts', name)
            call('DEL', P .. ':a:' .. name)
        end
        return gone""",
    "erase_reservations": """
        local gone = 0
        for _ = 1, count() do
            local id = take()
            local key = call('HGET', P .. ':q:' .. id, 'k')
            if key then call('ZREM', P .. ':p:' .. key, id) end
            call('ZREM', P .. ':calls', id)
            gone = gone + call('DEL', P .. ':q:' .. id)
        end
        return gone""",
    "drop_rows": """
        local gone = 0
        for _ = 1, count() do
            local id = take()
            gone = gone + call('EXISTS', P .. ':o:' .. id)
            close_row(id)
        end
        return gone""",
}

_COUNTS: Final = {
    "spaces": "return call('SMEMBERS', P .. ':spaces')",
    "count_streams": """
        local names = call('ZRANGEBYLEX', P .. ':streams', take(), '+', 'LIMIT', 0, 500)
        local records, handled, snapshots = 0, 0, 0
        for _, name in ipairs(names) do
            records = records + call('LLEN', P .. ':r:' .. name)
            handled = handled + call('SCARD', P .. ':h:' .. name)
            snapshots = snapshots + call('HEXISTS', P .. ':s:' .. name, 'sv')
        end
        return {#names, records, handled, snapshots, names[#names] or ''}""",
    "count_claims": """
        local from, limit = count(), count()
        local ids, lost = call('ZRANGE', P .. ':rows', from, from + limit - 1), 0
        for _, id in ipairs(ids) do
            local until_ms = tonumber(call('HGET', P .. ':o:' .. id, 'u'))
            if until_ms > 0 and until_ms <= now then lost = lost + 1 end
        end
        return {#ids, lost}""",
    "count": """
        local values = 0
        for _, one in ipairs(call('SMEMBERS', P .. ':spaces')) do values = values + call('ZCARD', P .. ':i:' .. one) end
        local first = call('ZRANGEBYSCORE', P .. ':due', '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)
        return {values, call('ZCARD', P .. ':rows'), call('ZCARD', P .. ':due'), call('ZCARD', P .. ':amounts'),
            call('ZCARD', P .. ':calls'), call('ZCOUNT', P .. ':x', '-inf', now),
            call('ZCOUNT', P .. ':due', '-inf', now), first[2] or false, tonumber(call('GET', P .. ':n') or '0')}""",
}

#: Each script by its name, without the clock that goes before it.
WHOLE_SCRIPTS: Final = (
    {name: READ + VALUES + _PAGES + body for name, body in _DUMPS.items()}
    | {name: READ + VALUES + ROWS + _STREAMS + body for name, body in _CHANGES.items()}
    | {name: READ + body for name, body in _COUNTS.items()}
)
