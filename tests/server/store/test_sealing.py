"""Sealed data opens for its member only; blind indexes tell nothing."""

import secrets as randomness
from dataclasses import replace
from uuid import UUID

import pytest

from server.domain.members import Identifier, Kind
from server.secrets import Keyring, Secrets
from server.store.sealing import PADDING_BYTES, BrokenSealError, Sealer, WrappedKey

PROGRAM, OTHER_PROGRAM = UUID(int=1), UUID(int=2)
ASHA, USHA = UUID(int=11), UUID(int=12)
CONTENT = {"given_name": "Asha", "email": "asha@example.com", "address": {"lines": ["12 Marine Drive"]}}


def fresh_secrets() -> Secrets:
    return Secrets(
        ledger=Keyring("1", {"1": randomness.token_bytes(32)}),
        master=Keyring("1", {"1": randomness.token_bytes(32)}),
        blind_index=randomness.token_bytes(32),
        page_token=randomness.token_bytes(32),
    )


def test_what_was_sealed_opens_again_and_shows_nothing() -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    sealed = sealer.seal(key, PROGRAM, ASHA, CONTENT)
    assert sealer.open(key, PROGRAM, ASHA, sealed) == CONTENT
    assert b"Asha" not in sealed
    assert b"example" not in sealed
    assert sealer.seal(key, PROGRAM, ASHA, CONTENT) != sealed


@pytest.mark.parametrize(("program", "member"), [(PROGRAM, USHA), (OTHER_PROGRAM, ASHA)])
def test_a_row_moved_to_another_member_or_program_does_not_open(program: UUID, member: UUID) -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    sealed = sealer.seal(key, PROGRAM, ASHA, CONTENT)
    with pytest.raises(BrokenSealError):
        sealer.open(key, program, member, sealed)
    with pytest.raises(BrokenSealError):
        sealer.open(sealer.new_key(program, member), program, member, sealed)


def test_a_wrapped_key_can_not_pose_as_a_profile() -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    with pytest.raises(BrokenSealError):
        sealer.open(key, PROGRAM, ASHA, key.wrapped)


@pytest.mark.parametrize("position", [0, 1, 13, 40, -1])
def test_one_altered_byte_is_noticed(position: int) -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    sealed = bytearray(sealer.seal(key, PROGRAM, ASHA, CONTENT))
    sealed[position] ^= 1
    with pytest.raises(BrokenSealError) as caught:
        sealer.open(key, PROGRAM, ASHA, bytes(sealed))
    assert "Asha" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 5, 13, 20])
def test_a_row_cut_short_is_noticed(cut: int) -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    with pytest.raises(BrokenSealError):
        sealer.open(key, PROGRAM, ASHA, sealer.seal(key, PROGRAM, ASHA, CONTENT)[:cut])


def test_without_the_members_key_nothing_opens() -> None:
    sealer = Sealer(fresh_secrets())
    sealed = sealer.seal(sealer.new_key(PROGRAM, ASHA), PROGRAM, ASHA, CONTENT)
    with pytest.raises(BrokenSealError):
        sealer.open(sealer.new_key(PROGRAM, ASHA), PROGRAM, ASHA, sealed)


def test_after_a_rotation_the_old_master_key_still_opens_and_the_new_one_wraps() -> None:
    before = fresh_secrets()
    key = Sealer(before).new_key(PROGRAM, ASHA)
    sealed = Sealer(before).seal(key, PROGRAM, ASHA, CONTENT)
    rotated = replace(before, master=Keyring("2", {**before.master.keys, "2": randomness.token_bytes(32)}))
    assert Sealer(rotated).open(key, PROGRAM, ASHA, sealed) == CONTENT
    assert Sealer(rotated).new_key(PROGRAM, USHA).master_key_id == "2"
    forgotten = replace(rotated, master=Keyring("2", {"2": rotated.master.keys["2"]}))
    with pytest.raises(BrokenSealError, match="no master key of id 1"):
        Sealer(forgotten).open(key, PROGRAM, ASHA, sealed)


def test_a_key_relabelled_with_another_master_does_not_open() -> None:
    before = fresh_secrets()
    both = replace(before, master=Keyring("1", {**before.master.keys, "2": randomness.token_bytes(32)}))
    sealer = Sealer(both)
    key = sealer.new_key(PROGRAM, ASHA)
    sealed = sealer.seal(key, PROGRAM, ASHA, CONTENT)
    with pytest.raises(BrokenSealError):
        sealer.open(WrappedKey("2", key.wrapped), PROGRAM, ASHA, sealed)


def test_names_of_different_length_are_sealed_to_one_length() -> None:
    sealer = Sealer(fresh_secrets())
    key = sealer.new_key(PROGRAM, ASHA)
    lengths = {
        len(sealer.seal(key, PROGRAM, ASHA, {"given_name": "x" * n})) for n in range(PADDING_BYTES // 2)
    }
    assert len(lengths) == 1


def test_a_blind_index_depends_on_program_kind_value_and_key() -> None:
    sealer = Sealer(fresh_secrets())
    email = Identifier(Kind.EMAIL, "asha@example.com")
    blind = sealer.blind(PROGRAM, email)
    assert blind == sealer.blind(PROGRAM, email)
    others = [
        sealer.blind(OTHER_PROGRAM, email),
        sealer.blind(PROGRAM, Identifier(Kind.CARD_NUMBER, "asha@example.com")),
        sealer.blind(PROGRAM, Identifier(Kind.EMAIL, "usha@example.com")),
        Sealer(fresh_secrets()).blind(PROGRAM, email),
    ]
    assert blind not in others


def test_request_hashes_tell_commands_apart_and_do_not_depend_on_the_order_of_fields() -> None:
    sealer = Sealer(fresh_secrets())
    assert sealer.request_hash({"a": 1, "b": 2}) == sealer.request_hash({"b": 2, "a": 1})
    assert sealer.request_hash({"a": 1}) != sealer.request_hash({"a": 2})
    assert sealer.request_hash({"a": 1}) != Sealer(fresh_secrets()).request_hash({"a": 1})


def test_secrets_do_not_stand_in_a_repr() -> None:
    key = Sealer(fresh_secrets()).new_key(PROGRAM, ASHA)
    assert "wrapped" not in repr(key)


def test_a_webhooks_secret_opens_for_its_endpoint_alone() -> None:
    sealer = Sealer(fresh_secrets())
    secret = b"s" * 32
    key = sealer.seal_secret(PROGRAM, ASHA, secret)
    assert sealer.open_secret(key, PROGRAM, ASHA) == secret
    assert secret not in key.wrapped
    for owner in ((PROGRAM, USHA), (OTHER_PROGRAM, ASHA)):
        with pytest.raises(BrokenSealError):
            sealer.open_secret(key, *owner)
    # Nor can it pose as a member's key, or such a key as a secret.
    with pytest.raises(BrokenSealError):
        sealer.open(key, PROGRAM, ASHA, key.wrapped)
    with pytest.raises(BrokenSealError):
        sealer.open_secret(sealer.new_key(PROGRAM, ASHA), PROGRAM, ASHA)
