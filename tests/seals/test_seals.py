"""The ledger, rates, consents and the audit are not rewritten unseen, not even by their owner."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from marketplace.seals import service
from marketplace.shared.embedded_postgres.programs import bin_folder
from tests.reports.conftest import Paid, findings, lift_all_guards, violations
from tests.world import World

SECONDS = 3
TAMPERINGS = 1_000


def sealed(world: World) -> str:
    """The head after everything so far is sealed."""
    world.advance(SECONDS)
    head = world.loopback.run(service.seal(world.parts.sessions))
    assert head is not None
    return head


def found(world: World, head: str | None = None) -> list[str]:
    async def look() -> list[str]:
        async with world.parts.sessions() as session:
            return await service.violations(session, head=head)

    return world.loopback.run(look())


def dumped(world: World, to: Path) -> Path:
    """What pg_dump writes of the database, in its plain format."""
    url = sa.make_url(world.owner_url).render_as_string(hide_password=False)
    command = [str(bin_folder() / "pg_dump"), "--format=plain", f"--file={to}", url]
    subprocess.run(command, check=True, env={"PGTZ": "UTC", "PATH": os.defpath})
    return to


def test_a_sealed_history_is_whole(world: World, paid: Paid) -> None:
    assert found(world) == []
    head = sealed(world)
    assert head.startswith("1:")
    assert found(world, head) == []
    assert sealed(world) == head, "nothing new, no new seal"
    covered = world.value(
        "SELECT array_agg(DISTINCT split_part(key, '/', 1)) FROM seal, unnest(row_keys) AS key"
    )
    assert sorted(covered) == sorted({*service.SEALED} - {"minimum_rate", "consent_withdrawal"}), (
        "of these the story has none"
    )
    for table in covered:
        rows = world.value(f"SELECT count(*) FROM {table}")
        assert rows == world.value(
            "SELECT count(*) FROM seal, unnest(row_keys) AS key WHERE key LIKE %s", f"{table}/%"
        )


def test_each_seal_goes_on_from_the_last(world: World, paid: Paid) -> None:
    first = sealed(world)
    paid.acme.post(f"/v1/jobs/{paid.job['id']}/pause", {"reason": "a change of brief"})
    second = sealed(world)
    assert second.startswith("2:")
    assert found(world, first) == found(world, second) == []
    kept = world.sql("SELECT number, hash, previous_hash FROM seal ORDER BY number")
    assert [f"{row['number']}:{row['hash']}" for row in kept] == [first, second]
    assert kept[1]["previous_hash"] == kept[0]["hash"]


def test_more_rows_than_a_seal_holds_make_several(
    world: World, paid: Paid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ROWS_PER_SEAL", 7)
    head = sealed(world)
    rows = [len(row["row_keys"]) for row in world.sql("SELECT row_keys FROM seal ORDER BY number")]
    assert len(rows) > 2
    assert set(rows[:-1]) == {7}
    assert head.startswith(f"{len(rows)}:")
    assert found(world, head) == []


def test_what_waits_for_its_commit_is_in_the_next_seal(world: World, paid: Paid) -> None:
    """A row that is stamped, but not committed when the seal is made, does not slip behind it."""
    with ThreadPoolExecutor(1) as background, world.connection() as late:
        late.execute(
            "INSERT INTO audit_event (subject_type, subject_id, action)"
            " VALUES ('claim', gen_random_uuid(), 'looked at')"
        )
        sealing = background.submit(sealed, world)
        time.sleep(0.3)
        assert not sealing.done(), "the seal waits for who may still commit something older"
        late.commit()
        sealing.result()
    sealed(world)
    assert found(world) == []
    assert world.value("SELECT count(*) FROM audit_event") == world.value(
        "SELECT count(*) FROM seal, unnest(row_keys) AS key WHERE key LIKE 'audit_event/%%'"
    )


def test_the_head_is_kept_with_the_files(world: World, paid: Paid) -> None:
    world.advance(SECONDS)
    assert world.sweep("seal") == 1
    number, _, kept = sealed(world).partition(":")
    file = Path(world.settings.storage_url) / "seals" / f"{int(number):012}"
    assert file.read_text() == kept


def kept(world: World) -> dict[str, str]:
    folder = Path(world.settings.storage_url) / "seals"
    return {file.name: file.read_text() for file in folder.iterdir()}


class TestAChainMadeAnew:
    """The owner takes the chain away and rewrites a row; the sweep chains what is there then."""

    @pytest.fixture
    def head(self, world: World, paid: Paid) -> str:
        world.advance(SECONDS)
        world.sweep("seal")
        paid.acme.post(f"/v1/jobs/{paid.job['id']}/pause", {"reason": "a change of brief"})
        world.advance(SECONDS)
        assert world.sweep("seal") == 2
        assert violations(world) == {}
        return kept(world)["newest"]

    def rewrite(self, world: World) -> None:
        lift_all_guards(world)
        world.owner_sql("DELETE FROM seal")
        world.owner_sql("UPDATE audit_event SET reason = 'none' WHERE reason = 'a change of brief'")

    def test_the_head_that_was_kept_stays(
        self, world: World, paid: Paid, head: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = kept(world)
        assert sorted(before) == ["000000000001", "000000000002", "newest"]
        self.rewrite(world)
        for action in ("pause", "resume"):  # until the new chain is longer than the old one was
            assert world.sweep("seal") > 0
            assert "does not go on from the head kept" in caplog.text
            assert kept(world) == before
            assert any("seal" in line for line in violations(world)["I12"])
            world.owner_sql(
                "INSERT INTO audit_event (subject_type, subject_id, action, actor)"
                " VALUES ('job', gen_random_uuid(), %s, 'nobody')",
                f"looked at to {action}",
            )
            world.advance(SECONDS)
        assert world.sweep("seal") == 3
        assert violations(world)["I12"] == [
            "seal 2 is not the one whose head was kept: the chain was made anew"
        ]

    def test_nothing_is_left_of_it(self, world: World, paid: Paid, head: str) -> None:
        lift_all_guards(world)
        world.owner_sql("DELETE FROM seal")
        assert violations(world)["I12"] == ["nothing is sealed, the head kept is of seal 2"]

    def test_a_sealed_row_is_changed(self, world: World, paid: Paid, head: str) -> None:
        lift_all_guards(world)
        world.owner_sql("UPDATE rate SET reason = 'always so'")
        assert all("is not as it was" in line for line in violations(world)["I12"])

    def test_a_head_of_that_number_is_not_replaced(
        self, world: World, paid: Paid, head: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever became of the one that was kept last."""
        folder = Path(world.settings.storage_url) / "seals"
        (folder / "newest").unlink()
        (folder / "000000000002").write_text("a" * 64)
        world.sweep("seal")
        assert "seal 2 is not the one whose hash was kept" in caplog.text
        assert kept(world)["000000000002"] == "a" * 64
        assert "newest" not in kept(world)

    def test_files_that_cannot_be_read_leave_it_unchecked(
        self, world: World, paid: Paid, head: str
    ) -> None:
        newest = Path(world.settings.storage_url) / "seals" / "newest"
        newest.unlink()
        newest.symlink_to(newest)
        found = findings(world)["I12"]
        assert found.violations == []
        assert (found.unchecked or "").startswith("the head kept with the files:")


def test_the_application_changes_no_seal(world: World, paid: Paid) -> None:
    sealed(world)
    for attack in ("UPDATE seal SET hash = 'x'", "DELETE FROM seal", "TRUNCATE seal"):
        with pytest.raises(Exception, match="permission denied"):
            world.sql(attack)
        with pytest.raises(Exception, match="append-only"):
            world.owner_sql(attack)


Attack = Callable[[World, Paid], str]


def _changed(table: str, change: str) -> Attack:
    def attack(world: World, _paid: Paid) -> str:
        (row,) = world.owner_sql(
            f"UPDATE {table} SET {change} WHERE id = (SELECT min(id::text) FROM {table})"
            f"::{'bigint' if table == 'audit_event' else 'uuid'} RETURNING id"
        )
        return f"{table}/{row['id']}, sealed in 1, is not as it was"

    return attack


def _removed(world: World, _paid: Paid) -> str:
    (row,) = world.owner_sql(
        "DELETE FROM audit_event WHERE id = (SELECT min(id) FROM audit_event) RETURNING id"
    )
    return f"audit_event/{row['id']}, sealed in 1, is missing"


def _added(world: World, paid: Paid) -> str:
    """A rate that was never announced, slipped into the past."""
    (row,) = world.owner_sql(
        "INSERT INTO rate (id, lineage_id, number, currency, rate_minor_per_hour, announced_at,"
        "  effective_from, reason, announced_by, booked_at)"
        " SELECT gen_random_uuid(), lineage_id, 2, currency, 100, announced_at, effective_from,"
        "  'always so', announced_by, booked_at FROM rate"
        " ORDER BY rate_minor_per_hour DESC LIMIT 1 RETURNING id"
    )
    return f"rate/{row['id']} is in no seal"


def _entry_added(world: World, paid: Paid) -> str:
    (row,) = world.owner_sql(
        "INSERT INTO ledger_entry (id, transaction_id, account_id, currency, amount_minor)"
        " SELECT gen_random_uuid(), transaction_id, account_id, currency, amount_minor"
        " FROM ledger_entry LIMIT 1 RETURNING id"
    )
    return f"ledger_entry/{row['id']} is in no seal"


@pytest.mark.parametrize(
    "attack",
    [
        _changed("ledger_entry", "amount_minor = amount_minor + 1"),
        _changed("ledger_transaction", "occurred_at = occurred_at - interval '1 day'"),
        _changed("rate", "rate_minor_per_hour = 100"),
        _changed("rate_lineage", "languages = 'de'"),
        _changed("consent_grant", "allowed_uses = '{demo}'"),
        _changed("audit_event", "actor = 'nobody'"),
        _removed,
        _added,
        _entry_added,
    ],
)
def test_the_owner_is_seen(world: World, paid: Paid, attack: Attack) -> None:
    sealed(world)
    lift_all_guards(world)
    expected = attack(world, paid)
    (line,) = found(world)
    assert line.startswith(expected)


def test_a_dump_is_checked_without_a_database(world: World, paid: Paid, tmp_path: Path) -> None:
    paid.acme.post(f"/v1/jobs/{paid.job['id']}/pause", {"reason": "tab\there, \\ and “quotes”\n…"})
    head = sealed(world)
    dump = dumped(world, tmp_path / "dump.sql")
    assert service.violations_of_dump(dump, head=head) == []
    paid.acme.post(f"/v1/jobs/{paid.job['id']}/resume")
    later = sealed(world)
    (line,) = service.violations_of_dump(dump, head=later)
    assert "its end was cut off" in line


def test_a_dump_without_a_seal_or_an_end_is_not_whole(
    world: World, paid: Paid, tmp_path: Path
) -> None:
    """Nothing sealed is nothing proven; what breaks off after the last sealed row breaks off."""
    dump = dumped(world, tmp_path / "dump.sql")
    head = sealed(world)
    (line,) = service.violations_of_dump(dump, head=head)
    assert line == "nothing is sealed, the head kept is of seal 1"
    whole = dumped(world, dump).read_bytes()
    dump.write_bytes(whole[: whole.rindex(b"-- PostgreSQL database dump complete")])
    with pytest.raises(ValueError, match="breaks off before its end"):
        service.violations_of_dump(dump, head=head)


@pytest.mark.parametrize("head", ["", "1", f"{'9' * 5_000}:{'a' * 64}", f"0:{'a' * 64}", "1:b"])
def test_what_is_no_head_is_called_so(world: World, paid: Paid, head: str) -> None:
    sealed(world)
    (line,) = found(world, head)
    assert "is no head of a chain" in line


def test_a_thousand_tamperings_of_a_dump_are_found(
    world: World, paid: Paid, tmp_path: Path
) -> None:
    sealed(world)
    paid.acme.post(f"/v1/jobs/{paid.job['id']}/pause", {"reason": "a change of brief"})
    head = sealed(world)
    lines = dumped(world, tmp_path / "dump.sql").read_bytes().splitlines(keepends=True)
    tables = {*service.SEALED, "seal"}
    rows = [place for table in tables for place in _rows_of(lines, table)]
    chance = random.Random(20261125)  # noqa: S311 - to be repeated, not to be secret
    unseen = []
    for number in range(TAMPERINGS):
        tampered, what = _tampered(lines, rows, chance)
        file = tmp_path / "tampered.sql"
        file.write_bytes(b"".join(tampered))
        try:
            violations = service.violations_of_dump(file, head=head)
        except ValueError as error:
            violations = [str(error)]
        if not violations:
            unseen.append((number, what))
    assert unseen == []


def _rows_of(lines: list[bytes], table: str) -> range:
    first = next(
        place
        for place, line in enumerate(lines)
        if line.startswith(f"COPY public.{table} (".encode())
    )
    return range(first + 1, lines.index(b"\\.\n", first))


def _tampered(
    lines: list[bytes], rows: list[int], chance: random.Random
) -> tuple[list[bytes], str]:
    tampered = list(lines)
    place = chance.choice(rows)
    match chance.randrange(5):
        case 0:
            del tampered[place]
            return tampered, f"line {place} removed"
        case 1:
            fields = tampered[place].rstrip(b"\n").split(b"\t")
            field = chance.randrange(len(fields))
            fields[field] = _otherwise(fields[field], chance)
            tampered[place] = b"\t".join(fields) + b"\n"
            return tampered, f"line {place}, field {field} changed to {fields[field]!r}"
        case 2:
            fields = tampered[place].split(b"\t")
            fields[0] = b"01a20000-0000-7000-8000-%012x" % chance.randrange(1 << 48)
            tampered.insert(place, b"\t".join(fields))
            return tampered, f"line {place} repeated under another id"
        case 3:
            other = chance.choice(rows)
            one, two = (tampered[each].split(b"\t") for each in (place, other))
            one[0], two[0] = two[0], one[0]
            tampered[place], tampered[other] = b"\t".join(one), b"\t".join(two)
            if tampered == lines:  # the first seal and the first of the audit are both called 1
                del tampered[place]
            return tampered, f"ids of {place} and {other} swapped"
        case _:
            # The end of a table's rows is lost.
            end = tampered.index(b"\\.\n", place)
            del tampered[place:end]
            return tampered, f"lines {place} to {end} cut off"


def _otherwise(field: bytes, chance: random.Random) -> bytes:
    """One character is another, or NULL is something."""
    if field == b"\\N":
        return b"0"
    place = chance.randrange(len(field))
    return field[:place] + (b"1" if field[place : place + 1] != b"1" else b"2") + field[place + 1 :]
