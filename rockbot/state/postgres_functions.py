"""What the PostgreSQL store does in one round trip: functions in its schema, one call is one transaction.

`@` stands for the schema. Everything that is decided by reading first is read behind a lock of its keys that ends with the
transaction, taken in one order everywhere; each statement of a function sees what was committed before it began.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ERASE_FUNCTIONS", "SETTLE_FUNCTIONS", "STEP_FUNCTIONS", "VALUE_FUNCTIONS"]

VALUE_FUNCTIONS: Final = (
    """CREATE FUNCTION @.clock_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint $$""",
    # Every writing function begins here: the commit is on disk, whatever the server's default is, and no lock is waited
    # for without end. Locks are numbers, so that two keys of one number wait for each other and nothing worse.
    """CREATE FUNCTION @.begin_write(keys text[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    DECLARE number bigint;
    BEGIN
        PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') IN ('off', 'local');
        PERFORM set_config('lock_timeout', '15s', true);
        FOR number IN SELECT DISTINCT hashtextextended('@/' || one, 0) FROM unnest(keys) AS one ORDER BY 1 LOOP
            PERFORM pg_advisory_xact_lock(number);
        END LOOP;
    END $$""",
    """CREATE FUNCTION @.sweep(now_ms bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        DELETE FROM @.state_values WHERE key IN (SELECT key FROM @.state_values
            WHERE expires_ms <= now_ms LIMIT 512 FOR UPDATE SKIP LOCKED);
        DELETE FROM @.state_leases WHERE name IN (SELECT name FROM @.state_leases
            WHERE until_ms <= now_ms LIMIT 512 FOR UPDATE SKIP LOCKED);
        DELETE FROM @.state_reservations WHERE id IN (SELECT id FROM @.state_reservations
            WHERE until_ms <= now_ms - 604800000 LIMIT 512 FOR UPDATE SKIP LOCKED);
    END $$""",
    """CREATE FUNCTION @.version_of(of text, now_ms bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
        SELECT coalesce((SELECT version FROM @.state_values
            WHERE key = of AND (expires_ms IS NULL OR expires_ms > now_ms)), 0) $$""",
    """CREATE FUNCTION @.set_value(of text, data bytea, until_ms bigint, now_ms bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE number bigint := nextval('@.state_numbers');
    BEGIN
        IF number % 256 = 0 THEN PERFORM @.sweep(now_ms); END IF;
        INSERT INTO @.state_values (key, version, expires_ms, value) VALUES (of, number, until_ms, data)
            ON CONFLICT (key) DO UPDATE SET
            version = excluded.version, expires_ms = excluded.expires_ms, value = excluded.value;
        RETURN number;
    END $$""",
    # `conflict` is the place of the write with another version (`version`: the one it has), 0 when all were written.
    """CREATE FUNCTION @.write_values(
        keys text[], data bytea[], expected bigint[], ttls bigint[], now_ms bigint, OUT conflict int, OUT version bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        conflict := 0;
        version := 0;
        FOR place IN 1 .. cardinality(keys) LOOP
            version := @.version_of(keys[place], now_ms);
            IF expected[place] IS NOT NULL AND expected[place] <> version THEN
                conflict := place;
                RETURN;
            END IF;
        END LOOP;
        FOR place IN 1 .. cardinality(keys) LOOP
            IF data[place] IS NULL THEN
                DELETE FROM @.state_values WHERE key = keys[place];
            ELSE
                version := @.set_value(keys[place], data[place], now_ms + ttls[place], now_ms);
            END IF;
        END LOOP;
    END $$""",
    """CREATE FUNCTION @.write_all(
        keys text[], data bytea[], expected bigint[], ttls bigint[], OUT conflict int, OUT version bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM @.begin_write(keys);
        SELECT done.conflict, done.version INTO conflict, version
            FROM @.write_values(keys, data, expected, ttls, @.clock_ms()) AS done;
    END $$""",
    """CREATE FUNCTION @.acquire_lease(
        lease text, asking text, ttl bigint, OUT held_token bigint, OUT held_until bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; holder @.state_leases;
    BEGIN
        PERFORM @.begin_write(ARRAY['lease ' || lease]);
        now_ms := @.clock_ms();
        SELECT * INTO holder FROM @.state_leases WHERE name = lease;
        IF holder.until_ms > now_ms AND holder.owner <> asking THEN RETURN; END IF;
        IF holder.until_ms > now_ms THEN held_token := holder.token;
        ELSE held_token := nextval('@.state_numbers'); END IF;
        held_until := now_ms + ttl;
        INSERT INTO @.state_leases (name, owner, token, until_ms) VALUES (lease, asking, held_token, held_until)
            ON CONFLICT (name) DO UPDATE SET
            owner = excluded.owner, token = excluded.token, until_ms = excluded.until_ms;
    END $$""",
    """CREATE FUNCTION @.release_lease(lease text, held bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM @.begin_write(ARRAY['lease ' || lease]);
        DELETE FROM @.state_leases WHERE name = lease AND token = held;
    END $$""",
    """CREATE FUNCTION @.reserve(
        of text, wanted float8, most float8, call text, ttl bigint, OUT granted bool, OUT taken float8)
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; held @.state_reservations;
    BEGIN
        PERFORM @.begin_write(ARRAY['amount ' || of, 'call ' || call]);
        now_ms := @.clock_ms();
        SELECT coalesce((SELECT settled FROM @.state_amounts WHERE key = of), 0) + coalesce(sum(amount), 0) INTO taken
            FROM @.state_reservations WHERE key = of AND NOT settled AND until_ms > now_ms;
        SELECT * INTO held FROM @.state_reservations WHERE id = call;
        granted := held.settled OR held.until_ms > now_ms;
        IF granted THEN
            UPDATE @.state_reservations SET until_ms = greatest(until_ms, now_ms + ttl) WHERE id = call;
            RETURN;
        END IF;
        granted := NOT taken + wanted > most + abs(most) * 1e-9;
        IF NOT granted THEN RETURN; END IF;
        INSERT INTO @.state_reservations (id, key, amount, until_ms, settled)
            VALUES (call, of, wanted, now_ms + ttl, false) ON CONFLICT (id) DO UPDATE SET
            key = excluded.key, amount = excluded.amount, until_ms = excluded.until_ms, settled = false;
        taken := taken + wanted;
    END $$""",
    """CREATE FUNCTION @.settle(call text, actual float8) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; of text;
    BEGIN
        PERFORM @.begin_write(ARRAY['call ' || call]);
        now_ms := @.clock_ms();
        IF actual = 0 THEN
            DELETE FROM @.state_reservations WHERE id = call AND NOT settled;
            RETURN;
        END IF;
        UPDATE @.state_reservations SET settled = true, until_ms = greatest(until_ms, now_ms)
            WHERE id = call AND NOT settled RETURNING key INTO of;
        IF NOT FOUND THEN RETURN; END IF;
        INSERT INTO @.state_amounts AS had (key, settled) VALUES (of, actual)
            ON CONFLICT (key) DO UPDATE SET settled = had.settled + excluded.settled;
    END $$""",
)

STEP_FUNCTIONS: Final = (
    """CREATE FUNCTION @.add_rows(
        of bigint, ids text[], causes text[], doors text[], addresses text[], awaits bool[], messages bytea[],
        now_ms bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        IF cardinality(ids) = 0 THEN RETURN; END IF;
        DELETE FROM @.state_outbox WHERE id = ANY (ids);
        INSERT INTO @.state_outbox (stream, sends, touched_ms, claimed_until_ms, claimed_by,
                id, cause, door, address, awaits_answer, message)
            SELECT of, 0, now_ms, 0, '', row.id, row.cause, row.door, row.address, row.awaits, row.message
            FROM unnest(ids, causes, doors, addresses, awaits, messages) WITH ORDINALITY
                AS row (id, cause, door, address, awaits, message, place) ORDER BY row.place;
    END $$""",
    # `conflict` is 0 (stored, `version` is new), 1 (another version) or 2 (handled already).
    """CREATE FUNCTION @.append(
        of text, expected bigint, records bytea[], message text, snapshot bytea,
        ids text[], causes text[], doors text[], addresses text[], awaits bool[], messages bytea[],
        answered text[], timers text[], dues bigint[], payloads bytea[], canceled text[],
        index_keys text[], index_data bytea[], OUT conflict int, OUT version bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; found_id bigint; first bigint;
    BEGIN
        PERFORM @.begin_write('stream ' || of || index_keys);
        now_ms := @.clock_ms();
        SELECT held.id, held.version INTO found_id, version FROM @.state_streams AS held WHERE held.key = of;
        version := coalesce(version, 0);
        conflict := CASE
            WHEN EXISTS (SELECT FROM @.state_handled AS done WHERE done.stream = found_id AND done.message = append.message)
            THEN 2 WHEN version <> expected THEN 1 ELSE 0 END;
        IF conflict > 0 THEN RETURN; END IF;
        first := version;
        version := version + cardinality(records);
        IF found_id IS NULL THEN
            INSERT INTO @.state_streams (key, version) VALUES (of, append.version) RETURNING id INTO found_id;
        ELSE
            UPDATE @.state_streams AS held SET version = append.version WHERE held.id = found_id;
        END IF;
        INSERT INTO @.state_handled (stream, message) VALUES (found_id, append.message);
        INSERT INTO @.state_records (stream, version, at_ms, value)
            SELECT found_id, first + record.place, now_ms, record.value
            FROM unnest(records) WITH ORDINALITY AS record (value, place);
        IF snapshot IS NOT NULL THEN
            INSERT INTO @.state_snapshots (stream, version, value) VALUES (found_id, append.version, snapshot)
                ON CONFLICT (stream) DO UPDATE SET version = excluded.version, value = excluded.value;
        END IF;
        IF cardinality(answered) > 0 THEN DELETE FROM @.state_outbox WHERE id = ANY (answered); END IF;
        PERFORM @.add_rows(found_id, ids, causes, doors, addresses, awaits, messages, now_ms);
        IF cardinality(canceled) > 0 THEN DELETE FROM @.state_timers WHERE id = ANY (canceled); END IF;
        IF cardinality(timers) > 0 THEN
            INSERT INTO @.state_timers (id, due_ms, payload)
                SELECT timer.id, timer.due, timer.payload FROM unnest(timers, dues, payloads) AS timer (id, due, payload)
                ON CONFLICT (id) DO UPDATE SET due_ms = excluded.due_ms, payload = excluded.payload;
        END IF;
        FOR place IN 1 .. cardinality(index_keys) LOOP
            IF index_data[place] IS NULL THEN DELETE FROM @.state_values WHERE key = index_keys[place];
            ELSE PERFORM @.set_value(index_keys[place], index_data[place], NULL, now_ms); END IF;
        END LOOP;
    END $$""",
    # `conflict` is 0 (stored), the place of the write with another version, or -1 (the mark exists).
    """CREATE FUNCTION @.commit_effects(
        mark text, cause bytea, remember bigint, keys text[], data bytea[], expected bigint[], ttls bigint[],
        ids text[], causes text[], doors text[], addresses text[], awaits bool[], messages bytea[],
        OUT conflict int, OUT version bigint) LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; number bigint;
    BEGIN
        PERFORM @.begin_write(mark || keys);
        now_ms := @.clock_ms();
        version := @.version_of(mark, now_ms);
        conflict := CASE WHEN version > 0 THEN -1 ELSE 0 END;
        FOR place IN 1 .. cardinality(keys) LOOP
            EXIT WHEN conflict <> 0;
            version := @.version_of(keys[place], now_ms);
            IF expected[place] IS NOT NULL AND expected[place] <> version THEN conflict := place; END IF;
        END LOOP;
        IF conflict <> 0 THEN RETURN; END IF;
        number := @.set_value(mark, cause, now_ms + remember, now_ms);
        PERFORM @.write_values(keys, data, expected, ttls, now_ms);
        PERFORM @.add_rows(-number, ids, causes, doors, addresses, awaits, messages, now_ms);
    END $$""",
    """CREATE FUNCTION @.mark_sent(ids text[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint;
    BEGIN
        PERFORM @.begin_write('{}');
        now_ms := @.clock_ms();
        DELETE FROM @.state_outbox WHERE id = ANY (ids) AND NOT awaits_answer;
        UPDATE @.state_outbox AS held SET sends = sends + sent.times, touched_ms = now_ms, claimed_until_ms = 0
            FROM (SELECT id, count(*)::int AS times FROM unnest(ids) AS one (id) GROUP BY id) AS sent
            WHERE held.id = sent.id;
    END $$""",
    """CREATE FUNCTION @.claim_outbox(asking text, idle bigint, claim bigint, longest bigint, rows int)
    RETURNS TABLE (place bigint, id text, cause text, message bytea, door text, address text, awaits_answer bool)
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint;
    BEGIN
        PERFORM @.begin_write('{}');
        now_ms := @.clock_ms();
        RETURN QUERY WITH idle_rows AS (
            SELECT held.seq FROM @.state_outbox AS held WHERE held.touched_ms <= now_ms - idle
                AND held.claimed_until_ms <= now_ms
                AND held.touched_ms + least(longest, idle << least(greatest(held.sends - 1, 0), 20)) <= now_ms
                ORDER BY held.seq LIMIT rows FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE @.state_outbox AS held
                SET touched_ms = now_ms, claimed_until_ms = now_ms + claim, claimed_by = asking
                FROM idle_rows WHERE held.seq = idle_rows.seq RETURNING held.*
        ) SELECT taken.seq, taken.id, taken.cause, taken.message, taken.door, taken.address, taken.awaits_answer
            FROM taken ORDER BY taken.seq;
    END $$""",
    """CREATE FUNCTION @.drop_timers(ids text[], dues bigint[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM @.begin_write('{}');
        DELETE FROM @.state_timers AS held USING unnest(ids, dues) AS gone (id, due)
            WHERE held.id = gone.id AND held.due_ms = gone.due;
    END $$""",
)

#: Since version 2.
ERASE_FUNCTIONS: Final = (
    # Behind the locks of `append`, so that no step is stored into a stream that is being removed.
    """CREATE FUNCTION @.erase_streams(
        names text[], OUT streams bigint, OUT records bigint, OUT handled bigint, OUT snapshots bigint, OUT outbox bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE ids bigint[];
    BEGIN
        PERFORM @.begin_write(ARRAY(SELECT 'stream ' || one FROM unnest(names) AS one));
        WITH gone AS (DELETE FROM @.state_streams WHERE key = ANY (names) RETURNING id)
            SELECT coalesce(array_agg(id), '{}') INTO ids FROM gone;
        streams := cardinality(ids);
        DELETE FROM @.state_records WHERE stream = ANY (ids);
        GET DIAGNOSTICS records = ROW_COUNT;
        DELETE FROM @.state_handled WHERE stream = ANY (ids);
        GET DIAGNOSTICS handled = ROW_COUNT;
        DELETE FROM @.state_snapshots WHERE stream = ANY (ids);
        GET DIAGNOSTICS snapshots = ROW_COUNT;
        DELETE FROM @.state_outbox WHERE stream = ANY (ids);
        GET DIAGNOSTICS outbox = ROW_COUNT;
    END $$""",
    """CREATE FUNCTION @.erase_values(names text[], OUT gone bigint, OUT outbox bigint) LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM @.begin_write(names);
        DELETE FROM @.state_outbox WHERE stream IN (SELECT -version FROM @.state_values WHERE key = ANY (names));
        GET DIAGNOSTICS outbox = ROW_COUNT;
        DELETE FROM @.state_values WHERE key = ANY (names);
        GET DIAGNOSTICS gone = ROW_COUNT;
    END $$""",
)

SETTLE_FUNCTIONS: Final = (
    "DROP FUNCTION @.settle(text, float8)",
    # Says whether there is a reservation of the call, or was one that is settled.
    """CREATE FUNCTION @.settle(call text, actual float8) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
    DECLARE now_ms bigint; of text;
    BEGIN
        PERFORM @.begin_write(ARRAY['call ' || call]);
        now_ms := @.clock_ms();
        IF actual = 0 THEN
            DELETE FROM @.state_reservations WHERE id = call AND NOT settled;
            RETURN FOUND OR EXISTS (SELECT FROM @.state_reservations WHERE id = call);
        END IF;
        UPDATE @.state_reservations SET settled = true, until_ms = greatest(until_ms, now_ms)
            WHERE id = call AND NOT settled RETURNING key INTO of;
        IF NOT FOUND THEN RETURN EXISTS (SELECT FROM @.state_reservations WHERE id = call); END IF;
        INSERT INTO @.state_amounts AS had (key, settled) VALUES (of, actual)
            ON CONFLICT (key) DO UPDATE SET settled = had.settled + excluded.settled;
        RETURN true;
    END $$""",
)
