"""Putting rules in force, as an operator would."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from loyalty.v1 import rules_pb2

from tests.support.servers import Laurel


async def publish(laurel: Laurel, *definitions: Mapping[str, Any]) -> None:
    """Create these rules and put them in force."""
    versions = []
    for definition in definitions:
        request = rules_pb2.CreateRuleRequest()
        json_format.ParseDict(definition, request.definition)
        rule = (await laurel.service.rules.CreateRule(request)).rule
        versions.append(rules_pb2.RuleVersion(name=rule.name, version=rule.version))
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=versions))
