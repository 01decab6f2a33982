"""A schema takes whatever proto3 JSON writes of a message, and nothing that is no such message."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from gateway.openapi import comments
from gateway.openapi.comments import first_sentence
from gateway.openapi.schemas import Schemas
from tests.support.compiled import compiled, pool_of

CONTRACT = """
syntax = "proto3";
package shapes.v1;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

// Colour is what is seen.
enum Colour {
  // Not seen.
  COLOUR_UNSPECIFIED = 0;
  COLOUR_RED = 1; // As blood.
}

// Everything has a field of each kind.
//
//   indented
message Everything {
  bool truth = 1;
  bytes raw = 2;
  double wide = 3;
  float narrow = 4;
  int32 small = 5;
  int64 big_number = 6;
  uint32 count = 7;
  uint64 large = 8;
  sint64 signed = 9;
  fixed64 fixed = 10;
  // Words.
  string text = 11;
  Colour colour = 12 [deprecated = true];
  repeated Colour colours = 13;
  repeated int64 numbers = 14;
  map<string, int64> by_name = 15;
  map<int32, Everything> by_number = 16;
  map<bool, string> by_truth = 17;
  Everything inner = 18;
  google.protobuf.Any any = 19;
  google.protobuf.Duration span = 20;
  google.protobuf.Empty empty = 21;
  google.protobuf.FieldMask mask = 22;
  google.protobuf.Struct struct = 23;
  google.protobuf.Value value = 24;
  google.protobuf.ListValue list = 25;
  google.protobuf.NullValue null = 26;
  google.protobuf.Timestamp time = 27;
  google.protobuf.Int64Value boxed = 28;
  repeated google.protobuf.StringValue boxes = 29;
  google.protobuf.DoubleValue boxed_wide = 30;
  optional string present = 31;
  // Which it is.
  oneof choice {
    string left = 32;
    Nested right = 33;
  }
  string odd = 34 [json_name = "@odd"];
  message Nested {
    oneof only {
      string one = 1;
      string two = 2;
    }
  }
}
"""


@pytest.fixture(scope="module")
def shapes() -> FileDescriptorSet:
    return compiled(CONTRACT)


@pytest.fixture(scope="module")
def everything(shapes: FileDescriptorSet) -> Descriptor:
    return pool_of(shapes).FindMessageTypeByName("shapes.v1.Everything")


def validator(schemas: Schemas, message: Descriptor) -> jsonschema.Draft202012Validator:
    whole = schemas.message(message) | {"components": {"schemas": schemas.components}}
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


SAMPLES: list[dict[str, Any]] = [
    {},
    {"truth": True, "raw": "AP+/", "wide": 1.5, "narrow": "NaN", "small": -5},
    {"wide": "-Infinity", "count": 4294967295, "large": "18446744073709551615"},
    {"bigNumber": "-9007199254740993", "signed": "-1", "fixed": "0", "numbers": ["1", "-2"]},
    {"text": "é", "colour": "COLOUR_RED", "colours": ["COLOUR_UNSPECIFIED"]},
    {"byName": {"a": "1"}, "byNumber": {"-3": {"text": "x"}}, "byTruth": {"true": "t"}},
    {"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}},
    {"span": "-1.000000001s", "empty": {}, "mask": "text,inner.bigNumber", "inner": {"inner": {}}},
    {"struct": {"a": [None, {"b": 1}]}, "value": None, "list": [1, "x"], "null": None},
    {"time": "2026-11-23T22:00:00.000000001Z", "boxed": "7", "boxes": ["x", ""], "boxedWide": "Infinity"},
    {"boxed": None, "boxedWide": None, "present": "", "left": "", "@odd": "so"},
    {"right": {"one": "1"}},
]
WRONG: list[dict[str, Any]] = [
    {"unheardOf": 1},
    {"truth": "true"},
    {"raw": "?"},
    {"wide": "nan"},
    {"small": 2**31},
    {"small": 1.5},
    {"count": -1},
    {"bigNumber": "1.5"},
    {"bigNumber": "x"},
    {"large": "-1"},
    {"colour": "PINK"},
    {"numbers": "1"},
    {"numbers": [None]},
    {"boxes": [None]},
    {"byNumber": {"x": {}}},
    {"byTruth": {"yes": "x"}},
    {"any": {"@type": 1}},
    {"span": "1"},
    {"time": "yesterday"},
    {"struct": []},
    {"list": {}},
    {"null": 1},
    {"left": "", "right": {}},
    {"right": {"one": "", "two": ""}},
    {"inner": {"unheardOf": 1}},
]


@pytest.mark.parametrize("answers", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_what_proto3_json_writes_is_valid(
    everything: Descriptor, sample: dict[str, Any], *, answers: bool
) -> None:
    message = GetMessageClass(everything)()
    json_format.ParseDict(sample, message, descriptor_pool=everything.file.pool)
    written = json_format.MessageToDict(message, descriptor_pool=everything.file.pool)
    check = validator(Schemas(comments.Comments({}), [everything] if answers else []), everything)
    check.validate(written)
    check.validate(sample)


@pytest.mark.parametrize("sample", WRONG, ids=str)
def test_what_is_no_such_message_is_not_valid(everything: Descriptor, sample: dict[str, Any]) -> None:
    check = validator(Schemas(comments.Comments({}), []), everything)
    assert not check.is_valid(sample)


@given(data=st.data())
def test_any_message_is_valid_as_written(everything: Descriptor, data: st.DataObject) -> None:
    numbers = st.integers(-(2**63), 2**63 - 1)
    message = GetMessageClass(everything)(
        raw=data.draw(st.binary()),
        wide=data.draw(st.floats()),
        narrow=data.draw(st.floats(width=32)),
        big_number=data.draw(numbers),
        large=data.draw(st.integers(0, 2**64 - 1)),
        text=data.draw(st.text()),
        numbers=data.draw(st.lists(numbers)),
        by_name=data.draw(st.dictionaries(st.text(), numbers)),
    )
    message.span.FromNanoseconds(data.draw(numbers))
    message.time.FromNanoseconds(data.draw(numbers))
    written = json.loads(json_format.MessageToJson(message, descriptor_pool=everything.file.pool))
    validator(Schemas(comments.Comments({}), []), everything).validate(written)


def test_an_answer_may_grow(everything: Descriptor) -> None:
    schemas = Schemas(comments.Comments({}), [everything])
    validator(schemas, everything).validate({"ofTheNextVersion": 1, "right": {"alsoNew": 2}})


def test_what_stands_in_the_path_is_not_in_the_body(everything: Descriptor) -> None:
    schemas = Schemas(comments.Comments({}), [])
    schema = schemas.without(everything, [("text",), ("inner", "text"), ("inner", "inner", "small")])
    schema["components"] = {"schemas": schemas.components}
    check = jsonschema.Draft202012Validator(schema)
    assert check.is_valid({"small": 1, "inner": {"small": 1, "inner": {"text": "x", "inner": {"small": 1}}}})
    assert not check.is_valid({"text": "x"})
    assert not check.is_valid({"inner": {"text": "x"}})
    assert not check.is_valid({"inner": {"inner": {"small": 1}}})


def test_comments_become_descriptions(shapes: FileDescriptorSet, everything: Descriptor) -> None:
    schemas = Schemas(comments.read(shapes), [])
    schemas.message(everything)
    schema = schemas.components["shapes.v1.Everything"]
    assert schema["description"].startswith("Everything has a field of each kind.\n\n  indented\n\n")
    assert "At most one of `left`, `right`. Which it is." in schema["description"]
    assert schema["properties"]["text"]["description"] == "Words."
    assert schema["properties"]["colour"]["deprecated"] is True
    assert schemas.components["shapes.v1.Colour"]["description"] == (
        "Colour is what is seen.\n\n- `COLOUR_UNSPECIFIED`: Not seen.\n- `COLOUR_RED`: As blood."
    )


def test_a_summary_is_the_first_sentence() -> None:
    assert first_sentence("One\nline. Two.") == "One line"
    assert first_sentence("Only one.") == "Only one"
    assert first_sentence("") == ""


def test_our_contracts_come_with_their_comments() -> None:
    path = Path(__file__).parents[2] / "laurel" / "contracts.binpb"
    told = comments.read(FileDescriptorSet.FromString(path.read_bytes()))
    assert told.of("loyalty.v1.PointsService.Accrue").startswith("Accrue records a purchase")
    assert told.of("loyalty.v1.Member.member_id").startswith("UUID")
    assert told.of("loyalty.v1.AccrueRequest.member") == "Who bought. Exactly one is required."
    assert told.of("loyalty.v1.MemberStatus.MEMBER_STATUS_ACTIVE") == "Earns and spends."
