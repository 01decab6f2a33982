"""The OpenAPI document of a contract that uses what google/api/http.proto has, and of ours."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from gateway.bindings import read
from gateway.contract import Contract
from gateway.openapi import comments
from gateway.openapi.document import About, Access, document
from tests.support.compiled import compiled, pool_of

CONTRACT = """
syntax = "proto3";
package made.v1;
import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/api/httpbody.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

// Shelves hold books.
service Library {
  // Get finds a book. NOT_FOUND if there is none.
  //
  // At any time.
  rpc Get(GetRequest) returns (Book) {
    option (google.api.http) = {
      get: "/v1/{name=shelves/*/books/*}"
      additional_bindings {get: "/v1/books/{filter.title}"}
    };
  }
  rpc Files(GetRequest) returns (google.api.HttpBody) {
    option (google.api.http) = {get: "/files/{name=**}"};
  }
  rpc List(GetRequest) returns (Books) {
    option (google.api.http) = {get: "/v1/{name=shelves/*}/books" response_body: "books"};
  }
  rpc Create(CreateRequest) returns (Book) {
    option (google.api.http) = {post: "/v1/shelves/{shelf}/books" body: "*"};
  }
  rpc Update(UpdateRequest) returns (Book) {
    option (google.api.http) = {patch: "/v1/books/{book.title}" body: "book"};
  }
  rpc Lend(CreateRequest) returns (Book) {
    option (google.api.http) = {post: "/v1/books/{request_id}:lend" body: "*"};
    option deprecated = true;
  }
  rpc Watch(GetRequest) returns (stream Book) {
    option (google.api.http) = {get: "/v1/books:watch"};
  }
  rpc Talk(stream Book) returns (stream Book) {
    option (google.api.http) = {get: "/v1/books:talk"};
  }
  rpc Purge(GetRequest) returns (Book) {
    option (google.api.http) = {custom: {kind: "PURGE" path: "/v1/books/{name}"}};
  }
  rpc Peek(GetRequest) returns (Book) {
    option (google.api.http) = {custom: {kind: "HEAD" path: "/v1/books/{name}"}};
  }
  rpc Any(GetRequest) returns (Book) {
    option (google.api.http) = {custom: {kind: "*" path: "/any/*"}};
  }
  rpc Hidden(GetRequest) returns (Book);
}

enum Order {
  ORDER_UNSPECIFIED = 0;
  ORDER_TITLE = 1;
}

message Filter {
  // Part of the title.
  string title = 1;
  Filter not = 2;
  repeated Order orders = 3;
}

message GetRequest {
  // Which one.
  string name = 1;
  int64 page_size = 2;
  Filter filter = 3;
  google.protobuf.Timestamp since = 4;
  google.protobuf.Duration span = 5;
  google.protobuf.FieldMask mask = 6;
  google.protobuf.BoolValue flag = 7 [deprecated = true];
  repeated string tags = 8;
  map<string, string> labels = 9;
  google.protobuf.Struct anything = 10;
  repeated Filter filters = 11;
}

message Book {
  string title = 1 [(google.api.field_behavior) = REQUIRED];
  string etag = 2 [(google.api.field_behavior) = OUTPUT_ONLY];
  string secret = 3 [(google.api.field_behavior) = INPUT_ONLY];
}

message Books {
  repeated Book books = 1;
}

message CreateRequest {
  string request_id = 1 [(google.api.field_behavior) = REQUIRED];
  string shelf = 2 [(google.api.field_behavior) = REQUIRED];
  int32 copies = 3 [(google.api.field_behavior) = REQUIRED];
  Book book = 4;
}

message UpdateRequest {
  Book book = 1;
  google.protobuf.FieldMask update_mask = 2;
}
"""
SCHEMES = {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}


def access(rpc: MethodDescriptor) -> Access:
    return Access("Anybody may.", public=True) if rpc.name == "Get" else Access()


@pytest.fixture(scope="module")
def files() -> FileDescriptorSet:
    return compiled(CONTRACT)


@pytest.fixture(scope="module")
def made(files: FileDescriptorSet) -> dict[str, Any]:
    about = About("Made", "1", "For a test.", SCHEMES, access)
    library: ServiceDescriptor = pool_of(files).FindServiceByName("made.v1.Library")
    return document(read([library]), about, comments.read(files))


def parameters(operation: dict[str, Any], place: str) -> dict[str, Any]:
    return {one["name"]: one for one in operation["parameters"] if one.get("in") == place}


def test_it_is_valid_openapi(made: dict[str, Any]) -> None:
    validate(json.loads(json.dumps(made)), cls=OpenAPIV31SpecValidator)
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_rule_has_its_operation(made: dict[str, Any]) -> None:
    found = {
        (path, method): operation["operationId"]
        for path, item in made["paths"].items()
        for method, operation in [*item.items(), *item.get("x-oai-additionalOperations", {}).items()]
        if "operationId" in operation
    }
    assert found == {
        ("/v1/shelves/{name_1}/books/{name_2}", "get"): "Library_Get",
        ("/v1/books/{filter.title}", "get"): "Library_Get_2",
        ("/files/{name}", "get"): "Library_Files",
        ("/v1/shelves/{name}/books", "get"): "Library_List",
        ("/v1/shelves/{name}/books", "post"): "Library_Create",
        ("/v1/books/{filter.title}", "patch"): "Library_Update",
        ("/v1/books/{request_id}:lend", "post"): "Library_Lend",
        ("/v1/books:watch", "get"): "Library_Watch",
        ("/v1/books:talk", "get"): "Library_Talk",
        ("/v1/books/{filter.title}", "PURGE"): "Library_Purge",
        ("/v1/books/{filter.title}", "head"): "Library_Peek",
    } | {
        ("/any/{wildcard}", method): f"Library_Any_{method}"
        for method in ("delete", "get", "head", "patch", "post", "put")
    }


def test_parameters_of_the_path_are_those_that_it_names(made: dict[str, Any]) -> None:
    for path, item in made["paths"].items():
        for operation in item.values():
            if "operationId" in operation:
                assert list(parameters(operation, "path")) == re.findall(r"\{([^}]*)\}", path)
    several = parameters(made["paths"]["/v1/shelves/{name_1}/books/{name_2}"]["get"], "path")
    assert several["name_2"]["description"] == "`name` is `shelves/{name_1}/books/{name_2}`. Which one."
    deep = parameters(made["paths"]["/files/{name}"]["get"], "path")
    assert deep["name"]["description"].startswith("Any number of segments")


def test_parameters_of_the_query_are_all_that_text_can_hold(made: dict[str, Any]) -> None:
    found = parameters(made["paths"]["/v1/shelves/{name_1}/books/{name_2}"]["get"], "query")
    assert list(found) == [
        "pageSize", "filter.title", "filter.orders", "since", "span", "mask", "flag", "tags",
    ]  # fmt: skip
    assert found["pageSize"]["schema"]["format"] == "int64"
    assert found["filter.title"]["description"] == "Part of the title."
    assert found["filter.orders"]["schema"]["type"] == "array"
    assert found["since"]["schema"]["format"] == "date-time"
    assert found["flag"]["schema"] == {"type": "boolean"}
    assert found["flag"]["deprecated"]
    other = parameters(made["paths"]["/v1/books/{filter.title}"]["get"], "query")
    assert "filter.title" not in other
    assert "name" in other
    assert not parameters(made["paths"]["/v1/shelves/{name}/books"]["post"], "query")
    assert list(parameters(made["paths"]["/v1/books/{filter.title}"]["patch"], "query")) == ["updateMask"]


def body(operation: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def test_bodies_hold_what_the_path_does_not(made: dict[str, Any]) -> None:
    whole = body(made["paths"]["/v1/shelves/{name}/books"]["post"])
    assert list(whole["properties"]) == ["requestId", "copies", "book"]
    # A header fills the request's id, and the path the shelf.
    assert whole["required"] == ["copies"]
    part = body(made["paths"]["/v1/books/{filter.title}"]["patch"])
    assert list(part["properties"]) == ["etag", "secret"]
    assert part["properties"]["etag"]["readOnly"]
    assert part["properties"]["secret"]["writeOnly"]


def content(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operation["responses"]["200"]["content"]
    return found


def test_answers_are_what_the_shim_writes(made: dict[str, Any]) -> None:
    paths = made["paths"]
    reference = {"$ref": "#/components/schemas/made.v1.Book"}
    assert content(paths["/v1/books/{filter.title}"]["get"]) == {"application/json": {"schema": reference}}
    assert content(paths["/v1/shelves/{name}/books"]["get"])["application/json"]["schema"] == {
        "type": "array",
        "items": reference,
    }
    assert content(paths["/files/{name}"]["get"]) == {"*/*": {}}
    assert content(paths["/v1/books:watch"]["get"])["text/event-stream"] == {"schema": reference}
    assert "WebSocket" in paths["/v1/books:talk"]["get"]["description"]


def test_errors_are_statuses_with_their_headers(made: dict[str, Any]) -> None:
    answers = made["paths"]["/v1/books/{filter.title}"]["patch"]["responses"]
    assert {"400", "401", "403", "404", "409", "412", "413", "415", "429", "503", "504"} < set(answers)
    assert not {"412", "413", "415"} & set(made["paths"]["/v1/books:watch"]["get"]["responses"])
    responses = made["components"]["responses"]
    assert "Retry-After" in responses["Error429"]["headers"]
    assert "Retry-After" in responses["Error503"]["headers"]
    assert "WWW-Authenticate" in responses["Error401"]["headers"]
    schema = responses["Error400"]["content"]["application/json"]["schema"]
    check = Draft202012Validator(schema | {"components": made["components"]})
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X", "metadata": {"a": "b"}}
    assert check.is_valid({"code": 3, "message": "m", "details": [reason, {"@type": "x/y.Z", "q": 1}]})
    assert not check.is_valid({"message": "m", "details": [{}]})


def references(operation: dict[str, Any]) -> set[str]:
    return {one["$ref"].rpartition("/")[2] for one in operation["parameters"] if "$ref" in one}


def test_headers_are_told_where_they_have_an_effect(made: dict[str, Any]) -> None:
    paths = made["paths"]
    assert references(paths["/v1/shelves/{name}/books"]["post"]) >= {"RequestTimeout", "IdempotencyKey"}
    assert references(paths["/v1/books/{filter.title}"]["patch"]) == {"RequestTimeout", "IfMatch"}
    assert references(paths["/v1/books/{filter.title}"]["get"]) == {"RequestTimeout", "IfNoneMatch"}
    assert "304" in paths["/v1/books/{filter.title}"]["get"]["responses"]
    assert "ETag" in paths["/v1/books/{filter.title}"]["patch"]["responses"]["200"]["headers"]


def test_words_come_from_the_contract_and_from_whoever_serves_it(made: dict[str, Any]) -> None:
    assert made["tags"] == [{"name": "made.v1.Library", "description": "Shelves hold books."}]
    operation = made["paths"]["/v1/shelves/{name_1}/books/{name_2}"]["get"]
    assert operation["summary"] == "Get finds a book"
    assert operation["description"].endswith("At any time.\n\nAnybody may.")
    assert operation["security"] == [{}, {"key": []}]
    assert made["security"] == [{"key": []}]
    assert made["paths"]["/v1/books/{request_id}:lend"]["post"]["deprecated"]
    assert "`updateMask`" in made["paths"]["/v1/books/{filter.title}"]["patch"]["description"]


def test_an_example_of_a_message_stands_where_the_whole_of_it_is_sent() -> None:
    files = compiled("""
syntax = "proto3";
package made.v1;
import "google/api/annotations.proto";

service Shop {
  rpc Buy(Purchase) returns (Purchase) {
    option (google.api.http) = {
      post: "/purchases"
      body: "*"
      additional_bindings {post: "/shops/{shop}/purchases" body: "*"}
    };
  }
}

// A purchase.
//
// Example:
//
//     {
//       "shop": "pune-1",
//       "units": "500"
//     }
message Purchase {
  string shop = 1;
  int64 units = 2;
}
""")
    shop = pool_of(files).FindServiceByName("made.v1.Shop")
    made = document(read([shop]), About("Made", "1"), comments.read(files))
    validate(json.loads(json.dumps(made)), cls=OpenAPIV31SpecValidator)
    whole, part = (
        made["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for path in ("/purchases", "/shops/{shop}/purchases")
    )
    assert whole["example"] == {"shop": "pune-1", "units": "500"}
    assert "example" not in part
    assert made["components"]["schemas"]["made.v1.Purchase"]["description"] == "A purchase."


def test_descriptors_without_comments_do(files: FileDescriptorSet) -> None:
    library = pool_of(files).FindServiceByName("made.v1.Library")
    bare = document(read([library]), About("Made", "1"), comments.Comments({}))
    validate(bare, cls=OpenAPIV31SpecValidator)
    assert "securitySchemes" not in bare["components"]
    assert "401" not in bare["paths"]["/v1/books:watch"]["get"]["responses"]


def test_a_contract_that_uses_everything_has_a_valid_document(contract: Contract) -> None:
    bindings = contract.routes.bindings
    whole = document(bindings, About("Everything", "1"), comments.Comments({}))
    validate(json.loads(json.dumps(whole)), cls=OpenAPIV31SpecValidator)
    for schema in whole["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    found = [
        operation["operationId"]
        for item in whole["paths"].values()
        for operation in [*item.values(), *item.get("x-oai-additionalOperations", {}).values()]
        if "operationId" in operation
    ]
    assert len(found) == len(set(found))
    told = {name.split("_")[1] for name in found}
    assert told == {binding.rpc.name for binding in bindings}
    assert whole["paths"]["/v1/files/{name}"]["post"]["requestBody"] == {"content": {"*/*": {}}}


def test_ours_is_valid_and_described_throughout() -> None:
    path = Path(__file__).parents[2] / "laurel" / "contracts.binpb"
    files = FileDescriptorSet.FromString(path.read_bytes())
    pool = pool_of(files)
    services = [
        pool.FindServiceByName(f"{file.package}.{service.name}")
        for file in files.file
        for service in file.service
    ]
    ours = document(read(services), About("Laurel", "1", security_schemes=SCHEMES), comments.read(files))
    validate(json.loads(json.dumps(ours)), cls=OpenAPIV31SpecValidator)
    for item in ours["paths"].values():
        for operation in item.values():
            assert operation["summary"], operation["operationId"]
    for name, schema in ours["components"]["schemas"].items():
        if name.startswith("loyalty."):
            assert schema["description"], name
            undescribed = [
                key for key, value in schema.get("properties", {}).items() if not value.get("description")
            ]
            assert not undescribed, name
