"""The tests' own evaluator of Bicep answers as Azure does, or says what it does not know and where.

The right values are those of Microsoft's: the tests of the compiler (EvaluationTests, SnapshotCommandTests),
its lexer, the reference of template functions, and the functions of the policy engine, ported from Azure's.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bicep import (
    SUBSCRIPTION,
    BicepError,
    Deployment,
    Runtime,
    deploy,
    parse,
    read_folder,
    walk,
)
from tests.conftest import PROJECT
from tests.effort import examples
from tests.infra_model import BASE, SCENARIOS

ACCOUNT = "resource account 'Microsoft.Storage/storageAccounts@2026-06-01' = {\n  name: 'st'\n}\n"
GROUP = (
    "resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {\n  name: 'rg'\n  location: 'a'\n}\n"
)
LATER = "account.properties.later"


def run(source: str, *, parameters: dict[str, Any] | None = None, **files: str) -> Deployment:
    others = {f"{name.replace('_', '.')}": content.encode() for name, content in files.items()}
    return deploy({"main.bicep": source.encode(), **others}, parameters or {})


def evaluate(expression: str, before: str = "", kind: str = "object", **files: str) -> Any:
    """The value of an expression, in an object, for an output has a type."""
    return run(f"{before}\noutput found {kind} = {{ value: {expression} }}", **files).outputs["found"][
        "value"
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # In texts
        ("'>${false}<>${true}<>${12948}<>${'hello!'}<'", ">False<>True<>12948<>hello!<"),
        (r"'\r\n\t\\\'\${}'", "\r\n\t\\'${}"),
        (r"'\${x}'", "${x}"),
        (r"'$\{'", BicepError),
        (r"'a \$ b ${1} c\n ${2}'", "a $ b 1 c\n 2"),
        (r"'\\${1}'", "\\1"),
        (r"'\u{1F600}\u{e9}'", "😀é"),
        (r"'\u{110000}'", BicepError),
        (r"'\u{d800}'", BicepError),
        (r"'\q'", BicepError),
        ("'${null}'", BicepError),
        ("'${json('1.5')}'", BicepError),
        ("'>${{ a: 'b', '!c': 2 }}<>${[true, 2893, 'abc']}<'", ">{'a':'b','!c':2}<>[true,2893,'abc']<"),
        ("'a${'b${'c'}'}'", "abc"),
        ("'$ $$ ${1}$'", "$ $$ 1$"),
        (
            "'''\nthese escapes\n  are not\n\\r\\n\\t\\\\\\'\\${}\n'''",
            "these escapes\n  are not\n\\r\\n\\t\\\\\\'\\${}\n",
        ),
        ("'''\r\na'''", "a"),
        ("'''\n\na'''", "\na"),
        ("'''a\nb'''", "a\nb"),
        ("'''it's ${x}'''", "it's ${x}"),
        # string()
        ("string(true)", "True"),
        ("string(12)", "12"),
        ("string('é')", "é"),
        ("string({ a: 'é😀', b: [1, true, null, 'x\"\\\\'] })", '{"a":"é😀","b":[1,true,null,"x\\"\\\\"]}'),
        (r"string(['\u{2028}\u{85}\u{7f}\n'])", '["\\u2028\\u0085\x7f\\n"]'),
        ("string(null)", BicepError),
        ("string(json('1.5'))", BicepError),
        ("string({ a: json('1.5') })", '{"a":1.5}'),
        ("string({ a: json('1e300') })", BicepError),
        # items()
        (
            "map(items({ ghiKey: 1, defKey: 2, abcKey: 3, '1Key': 4, GHIKey: 5, ABCKey: 6 }), i => i.key)",
            ["1Key", "abcKey", "ABCKey", "defKey", "ghiKey", "GHIKey"],
        ),
        (
            "map(items({ gKey: 1, dKey: 2, aKey: 3, '123': 4, GKet: 5, DKEZ: 6, '4Key': 7 }), i => i.key)",
            ["123", "4Key", "aKey", "dKey", "DKEZ", "GKet", "gKey"],
        ),
        ("map(items({ b: 1, A: 2, C: 3, _: 4, a1: 5 }), i => i.key)", ["A", "a1", "b", "C", "_"]),
        ("items({ b: true })", [{"key": "b", "value": True}]),
        ("items([])", BicepError),
        ("items('ab')", BicepError),
        # union()
        (
            "union({ a: 1, b: { c: [1], d: 2 } }, { b: { c: [2] }, e: 3 })",
            {"a": 1, "b": {"c": [2], "d": 2}, "e": 3},
        ),
        ("union([1, true, '1'], json('[1.0, 1, true, null]'), [null])", [1, True, "1", 1.0, None]),
        (
            "union([{ a: 1, b: 2 }], [{ b: 2, a: 1 }, { a: true, b: 2 }])",
            [{"a": 1, "b": 2}, {"a": True, "b": 2}],
        ),
        ("union({ a: 1 }, { a: null })", BicepError),
        ("union({ a: null }, { b: 1 })", BicepError),
        ("union({ a: 1 }, { A: 2 })", BicepError),
        ("union({ x: { a: 1 } }, { x: { A: 2 } })", BicepError),
        ("union({ a: 1 }, [1])", BicepError),
        ("union('a', 'b')", BicepError),
        ("union([1])", BicepError),
        # concat()
        ("concat('abc', 'def')", "abcdef"),
        ("concat([1], [2, [3]])", [1, 2, [3]]),
        ("concat('a', [1])", BicepError),
        ("concat(1, 2)", BicepError),
        # Equality and order
        ("1 == true", False),
        ("0 == false", False),
        ("1 == json('1.0')", True),
        ("'a' == 'A'", False),
        ("'1' == 1", False),
        ("{ a: [1] } == { a: [true] }", False),
        ("{ a: 1, b: 2 } == { b: 2, a: 1 }", True),
        ("null == null", True),
        ("123 < 456 && 456 <= 456 && 2 > 1 && 2 >= 2", True),
        ("'a' < 'b'", BicepError),
        ("1 < true", BicepError),
        ("'a' + 'b'", BicepError),
        ("1 && true", BicepError),
        ("true || 1", True),
        ("false || 1", BicepError),
        ("!1", BicepError),
        ("-true", BicepError),
        ("1 ? 2 : 3", BicepError),
        ("null ?? 123", 123),
        ("1 + 2 - 4 == -1 && !false || false", True),
        ("false ? 1 : true ? 2 : 3", 2),
        ("9223372036854775808", BicepError),
        # Lists, objects and texts
        ("empty('')", True),
        ("empty({})", True),
        ("empty(null)", True),
        ("empty(0)", BicepError),
        ("empty(false)", BicepError),
        ("length('😀é')", 3),
        ("length({ a: 1 })", 1),
        ("length(12)", BicepError),
        ("indexOf('FOOBAR', 'bar')", 3),
        ("indexOf(['FOO', 'BAR'], 'bar')", -1),
        ("indexOf(['FOO', 'BAR'], 'BAR')", 1),
        ("indexOf([true], 1)", -1),
        ("contains('FOOBAR', 'BAR')", True),
        ("contains('FOOBAR', 'bar')", False),
        ("contains(['FOO'], 'foo')", False),
        ("contains([1], true)", False),
        ("contains({ One: 1 }, 'one')", True),
        ("contains(null, 'one')", BicepError),
        ("[1, 2][indexOf(['a'], 'b')]", BicepError),
        ("[1, 2][true]", BicepError),
        ("'abc'[0]", BicepError),
        ("{ aB: 1 }.ab", BicepError),
        ("{ aB: 1 }.?ab", BicepError),
        ("{ aB: 1 }.?c", None),
        ("[1][?3]", None),
        ("{ a: 1, A: 2 }", {"a": 1, "A": 2}),
        ("{ a: 1, A: 2 }.A", 2),
        ("{ a: 1, a: 2 }", BicepError),
        ("map('abc', x => x)", BicepError),
        ("map([1], (x, y) => x)", BicepError),
        ("flatten([[0, 1], [2]])", [0, 1, 2]),
        ("flatten(['ab'])", BicepError),
        ("range(1, 3)", [1, 2, 3]),
        ("range(1, 0)", []),
        ("range(1, -1)", BicepError),
        ("range('1', 3)", BicepError),
        ("567 / 3", 189),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 / 0", BicepError),
        ("7 / '2'", BicepError),
        ("[for x in 'ab': x]", BicepError),
        ("[for (x, i) in ['a', 'b']: '${i}${x}']", ["0a", "1b"]),
        ("toObject([1, 2], i => 'k${i}')", {"k1": 1, "k2": 2}),
        ("toObject(['a', 'A'], i => i)", BicepError),
        ("toObject([1], i => i)", BicepError),
        ("replace('a.b.c', '.', '-')", "a-b-c"),
        ("replace('aBa', 'b', '-')", BicepError),
        ("replace('a', '', '-')", BicepError),
        ("toLower('AbC')", "abc"),
        ("padLeft(3, 2, '0')", "03"),
        ("padLeft('abc', 2)", "abc"),
        ("toLower('ΑΣ')", BicepError),
        ("skip('abc', 2)", "c"),
        ("skip('abc', 5)", ""),
        ("skip([1, 2], 1)", [2]),
        ("skip([1, 2], -1)", [1, 2]),
        ("skip('é', 1)", BicepError),
        ("skip({}, 1)", BicepError),
        ("max(1, 3, 2)", 3),
        ("max([1, 3, 2])", 3),
        ("max([])", BicepError),
        ("max(1, true)", BicepError),
        ("cidrSubnet('10.144.0.0/20', 24, 1)", "10.144.1.0/24"),
        ("cidrSubnet('10.144.0.0/20', 24, -1)", BicepError),
        ("cidrSubnet('10.144.0.0/20', 24, 16)", BicepError),
        ("cidrSubnet('10.144.0.0/20', 8, 0)", BicepError),
        ("json('[1, null]')", [1, None]),
        ("json('[')", BicepError),
        ("fail('no')", BicepError),
        # Names
        (f"uniqueString('/subscriptions/{uuid.UUID(int=0)}/resourceGroups/myRg')", "js26ofeqkqeve"),
        ("uniqueString('a', 'b') == uniqueString('a-b')", True),
        ("uniqueString(1)", BicepError),
        ("uniqueString()", BicepError),
        ("guid('a', 'b', 'c')", str(uuid.uuid5(uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830"), "a-b-c"))),
        ("guid(1)", BicepError),
        # Ids
        ("resourceId('My.Rp/a/b', 'x', 'y')", f"/subscriptions/{SUBSCRIPTION}/providers/My.Rp/a/x/b/y"),
        (
            "resourceId('g', 'My.Rp/a', 'x')",
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/My.Rp/a/x",
        ),
        (
            "resourceId('other', 'g', 'My.Rp/a', 'x')",
            "/subscriptions/other/resourceGroups/g/providers/My.Rp/a/x",
        ),
        ("resourceId('more', 'other', 'g', 'My.Rp/a', 'x')", BicepError),
        ("resourceId('My.Rp/a/b', 'x')", BicepError),
        ("resourceId('My.Rp/a')", BicepError),
        ("resourceId('x', 'y')", BicepError),
        ("subscriptionResourceId('My.Rp/a', 'x')", f"/subscriptions/{SUBSCRIPTION}/providers/My.Rp/a/x"),
        ("subscriptionResourceId('other', 'My.Rp/a', 'x')", "/subscriptions/other/providers/My.Rp/a/x"),
        ("extensionResourceId('/here', 'My.Rp/a', 'x')", "/here/providers/My.Rp/a/x"),
        ("resourceGroup('other', 'g').id", "/subscriptions/other/resourceGroups/g"),
        ("resourceGroup('')", BicepError),
        ("resourceGroup()", BicepError),
        # What is not understood
        ("sort([1], (a, b) => a < b)", BicepError),
        ("2 * 3", BicepError),
        ("nothing", BicepError),
        ("nothing.at.all", BicepError),
        ("sys.union({}, {})", {}),
        ("account", BicepError),
    ],
    ids=lambda value: re.sub(r"[^ -~]|\\", "?", value)[:70] if isinstance(value, str) else "",
)
def test_value(expression: str, value: Any) -> None:
    if value is BicepError:
        with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: "):
            evaluate(expression)
        return
    found = evaluate(expression)
    assert (found, type(found)) == (value, type(value))
    assert json.dumps(found) == json.dumps(value), "1 is not true, and keys have an order"


@pytest.mark.parametrize(
    "decision",
    [
        "empty({})",
        "{} == ''",
        "'x' != {}",
        "length({})",
        "{} ? 1 : 2",
        "!{}",
        "-{}",
        "{} && true",
        "{} || true",
        "true && {}",
        "{} ?? 1",
        "{} > 1",
        "1 + {}",
        "replace({}, 'a', 'b')",
        "replace('a', {}, 'b')",
        "toLower({})",
        "indexOf({}, 'a')",
        "indexOf(['a'], {})",
        "union([{}], ['a'])",
        "[{}] == ['a']",
        "items({})",
        "flatten({})",
        "map({}, x => x)",
        "[for x in {}: x]",
        "json({})",
        "uniqueString({})",
        "cidrSubnet({}, 24, 0)",
        "fail({})",
        "contains({}, 'a')",
        "contains('a', {})",
        "contains(['a'], {})",
        "skip({}, 1)",
        "max({}, 1)",
        "[1][{}]",
        "empty('${LATER}/')",
        "resourceId('My.Rp/a', {})",
        "toObject(['a'], x => {})",
        "resourceGroup({})",
    ],
)
def test_nothing_is_decided_on_what_is_not_known_yet(decision: str) -> None:
    expression = decision.replace("{}", LATER).replace("LATER", LATER)
    with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: .*not known before"):
        evaluate(expression, ACCOUNT)


def test_what_is_not_known_yet_goes_on_as_it_is() -> None:
    later = "{Microsoft.Storage/storageAccounts/st}.properties.later"
    for expression, value in (
        (LATER, later),
        (f"'a${{{LATER}}}'", f"a{later}"),
        (f"concat('a', {LATER})", f"a{later}"),
        (f"string({LATER})", later),
        (f"[{LATER}][0].b", f"{later}.b"),
        (f"union({{ a: 1 }}, {{ a: {LATER} }}).a", later),
        (f"items({{ a: {LATER} }})[0].value", later),
        (f"string([{LATER}])", f'["{later}"]'),
    ):
        found = evaluate(expression, ACCOUNT)
        assert (found, type(found)) == (value, Runtime)
    assert len(evaluate(f"concat([{LATER}], [1])", ACCOUNT)) == 2
    assert evaluate(f"empty([{LATER}])", ACCOUNT) is False
    one, other = evaluate(f"guid('a', {LATER})", ACCOUNT), evaluate(f"guid('b', {LATER})", ACCOUNT)
    assert isinstance(one, Runtime)
    assert one != other
    assert "/" not in one, "it may be a name"


JSON = '{"a": {"b c": [1, {"d": "é"}]}, "null": null}'


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("loadJsonContent('x.json')", json.loads(JSON)),
        ("loadJsonContent('./x.json', '$')", json.loads(JSON)),
        ("loadJsonContent('x.json', '$.a')", json.loads(JSON)["a"]),
        ("loadJsonContent('x.json', 'a')", json.loads(JSON)["a"]),
        (r"loadJsonContent('x.json', '$.a[\'b c\'][1].d')", "é"),
        ("loadJsonContent('x.json', '$.null')", None),
        ("loadJsonContent('x.json', '$.A')", BicepError),
        (r"loadJsonContent('x.json', '$.a[\'b c\'][2]')", BicepError),
        ("loadJsonContent('x.json', '$..d')", BicepError),
        ("loadJsonContent('x.json', '$.*')", BicepError),
        ("loadJsonContent('x.json', '$.a[0]')", BicepError),
        ("loadJsonContent('y.json')", BicepError),
        ("loadJsonContent('main.bicep')", BicepError),
        ("loadJsonContent(1)", BicepError),
        ("loadTextContent('x.json')", JSON),
        ("loadTextContent('x.json', 'utf-16')", BicepError),
    ],
)
def test_content_of_files(call: str, value: Any) -> None:
    if value is BicepError:
        with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: "):
            evaluate(call, x_json=JSON)
    else:
        assert evaluate(call, x_json=JSON) == value


@pytest.mark.parametrize(
    ("kind", "fits", "not_fits"),
    [
        ("string", ["", "a"], [1, True, None, []]),
        ("int", [1, -1], ["1", True, 1.5, None]),
        ("bool", [True], [0, "true", None]),
        ("array", [[], [1, "a"]], ["a", {}, None]),
        ("object", [{}], [[], "a", None]),
        ("string[]", [[], ["a"]], [["a", 1], "a"]),
        ("string?", ["a", None], [1]),
        ("'a' | 'b'", ["a", "b"], ["A", "c", None]),
        ("1 | 2", [1, 2], [True, 3, "1"]),
        ("{ a: string, b: int? }", [{"a": "x"}, {"a": "x", "b": 1}], [{}, {"a": "x", "c": 1}, {"a": 1}]),
        ("{ *: int }[]", [[{}, {"x": 1}]], [[{"x": "1"}], {}]),
        ("('a' | 'b')[]", [["a", "b"]], [["c"], "a"]),
        ("mine", [{"a": 1}], [{"a": 3}, {"a": 0}, {}, 1]),
    ],
)
def test_types(kind: str, fits: list[Any], not_fits: list[Any]) -> None:
    """Of parameters, those of modules too, and of outputs."""
    types = "type mine = {\n  @minValue(1)\n  @maxValue(2)\n  a: int\n}\n"
    parameter = f"{types}param given {kind}\n"
    main = (
        f"{GROUP}{parameter}module inner 'inner.bicep' = {{\n  scope: group\n  params: {{ given: given }}\n}}"
    )
    main += f"\noutput found {kind} = inner.outputs.found\n"
    inner = f"{types}param given {kind}\noutput found {kind} = given\n"
    for value in fits:
        assert run(main, parameters={"given": value}, inner_bicep=inner).outputs == {"found": value}
    for value in not_fits:
        with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: param given: "):
            run(parameter, parameters={"given": value})
    wrong = "output found nothing = 1"
    with pytest.raises(BicepError, match=r"\Amain\.bicep:1: output found: there is no type nothing"):
        run(wrong)


IMPORTED = {
    "types.bicep": b"""@export()
type grants = { account: string, role: role }[]

type role = 'reader' | 'writer'

@export()
type tags = resourceInput<'Microsoft.Resources/resourceGroups@2025-04-01'>.tags
""",
    "modules/one.bicep": b"""import { grants, tags } from '../types.bicep'
param given grants
param all tags
output found grants = given
""",
}


def test_types_are_imported_with_those_that_they_are_made_of() -> None:
    def found(role: str) -> Any:
        given = {"given": [{"account": "a", "role": role}], "all": {"x": "y"}}
        return deploy(IMPORTED, given, "modules/one.bicep").outputs["found"]

    assert found("reader") == [{"account": "a", "role": "reader"}]
    with pytest.raises(BicepError, match="role: 'owner' is not"):
        found("owner")


@pytest.mark.parametrize(
    "line", ["import { role } from '../types.bicep'", "import { other } from '../types.bicep'", ""]
)
def test_a_type_that_is_not_exported_is_not_there(line: str) -> None:
    name = "other" if "other" in line else "role"
    source = f"{line}\nparam given {name}\n".encode()
    with pytest.raises(BicepError, match=f"there is no type {name}"):
        deploy({**IMPORTED, "modules/one.bicep": source}, {"given": "reader"}, "modules/one.bicep")


@pytest.mark.parametrize(
    ("limits", "kind", "default", "error"),
    [
        ("@allowed(['a', 'b'])", "string", "'c'", "not one of"),
        ("@allowed([1])", "int", "2", "not one of"),
        ("@minValue(2)", "int", "1", "below 2"),
        ("@minValue(-1)", "int", "-2", "below -1"),
        ("@maxValue(2)", "int", "3", "above 2"),
        ("@minLength(1)", "string", "''", "below 1"),
        ("@maxLength(1)", "array", "[1, 2]", "above 1"),
        ("@wrong(1)", "int", "1", "not understood"),
    ],
)
def test_limits_of_parameters(limits: str, kind: str, default: str, error: str) -> None:
    with pytest.raises(BicepError, match=rf"\Amain\.bicep:\d+: param p: .*{error}"):
        run(f"{limits}\nparam p {kind} = {default}")


def test_defaults_may_name_other_parameters_in_any_order() -> None:
    source = (
        "param a string = '${b}-${c}'\nparam b string = toLower(c)\nparam c string\nparam d bool = empty(a)"
    )
    source += "\noutput found string = '${a} ${d}'"
    assert run(source, parameters={"c": "X"}).outputs == {"found": "x-X False"}
    assert run(source, parameters={"c": "X", "b": None}).outputs == {"found": "x-X False"}, (
        "null is the default"
    )
    with pytest.raises(BicepError, match="needs itself"):
        run("param a string = b\nparam b string = a")


def test_the_answer_is_the_same_in_every_process() -> None:
    """Whatever the order of sets there is."""
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from tests.test_bicep import answer\n"
        "print(answer())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script, PROJECT],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in range(1, 9)
    }
    assert answers == {answer() + "\n"}


def answer() -> str:
    """Of a scenario, and of defaults that name each other, to compare with the one of another process."""
    names = "abcdefghij"
    chain = "".join(f"param {a} string = '{a}${{{b}}}'\n" for a, b in itertools.pairwise(names))
    found = run(f"{chain}param j string = 'j'\noutput found string = a").outputs
    deployed = deploy(read_folder(PROJECT / "infra"), SCENARIOS[0].parameters)
    waits = {name: sorted(others) for name, others in deployed.waits.items()}
    bodies = [(resource.id, resource.api, resource.body) for resource in deployed.resources]
    with pytest.raises(BicepError) as refused:
        run("param a string", parameters={"x": 1, "y": 2, "z": 3})
    return json.dumps([found, deployed.outputs, waits, bodies, str(refused.value)])


def test_a_module_that_is_used_through_a_variable_comes_before() -> None:
    inner = "param given string = 'a'\noutput found string = given"
    module = "module {0} 'inner.bicep' = {{\n  name: '{0}'\n  scope: group\n  params: {{ given: {1} }}\n}}\n"
    source = GROUP + "var between = first.outputs.found\nvar more = { key: '${between}!' }\n"
    source += module.format("second", "more.key") + module.format("first", "'x'")
    source += module.format("third", "map([1], second => 'local')[0]")
    source += "output found string = second.outputs.found"
    deployed = run(source, inner_bicep=inner)
    assert deployed.outputs == {"found": "x!"}
    assert deployed.waits["second"] == {"first"}
    assert deployed.waits["first"] == set()


def test_modules_are_found_beside_the_file_that_names_them() -> None:
    told = "\noutput found string = {}.outputs.found"
    outer = "module inner 'inner.bicep' = {\n  scope: resourceGroup('rg')\n}" + told.format("inner")
    main = f"{GROUP}module outer 'm/outer.bicep' = {{\n  scope: group\n}}" + told.format("outer")
    files = {
        "main.bicep": main,
        "m/outer.bicep": outer,
        "m/inner.bicep": "output found string = loadTextContent('../x.txt')",
        "x.txt": "here",
    }
    assert deploy({k: v.encode() for k, v in files.items()}, {}).outputs == {"found": "here"}


def test_types_are_the_same_in_any_case() -> None:
    source = ACCOUNT + (
        "resource blobs 'microsoft.storage/STORAGEACCOUNTS/blobServices@2026-06-01' = {\n"
        "  parent: account\n  name: 'default'\n}\n"
    )
    assert [r.full_name for r in run(source).of("MICROSOFT.Storage/storageaccounts/blobservices")] == [
        "st/default"
    ]
    twice = "resource other 'microsoft.storage/storageaccounts@2026-06-01' = {\n  name: 'ST'\n}\n"
    with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: .*deployed twice"):
        run(ACCOUNT + twice)
    with pytest.raises(BicepError, match=r"\Amain\.bicep:1: .*String"):
        run("param p String")


def test_ids_of_extensions_begin_with_what_they_extend() -> None:
    source = ACCOUNT + (
        "resource lock 'Microsoft.Authorization/locks@2020-05-01' = {\n  name: 'keep'\n  scope: account\n}\n"
        "resource of 'Microsoft.Authorization/locks@2020-05-01' existing = {\n"
        "  name: 'far'\n  scope: resourceGroup('other', 'g')\n}\n"
        "output found object = { lock: lock.id, of: of.id }"
    )
    account = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Storage/storageAccounts/st"
    assert run(source).outputs["found"] == {
        "lock": f"{account}/providers/Microsoft.Authorization/locks/keep",
        "of": "/subscriptions/other/resourceGroups/g/providers/Microsoft.Authorization/locks/far",
    }


@pytest.mark.parametrize(
    "source",
    [
        "var a = a",
        "var a = [for x in [1]: y]",
        "var a = 1\nvar a = 2",
        "var a =",
        "var a = 'b",
        "assert a = true",
        "func f() string => 'a'",
        "resource a 'My.Rp/a@1' = if (1) {\n  name: 'a'\n}",
        "resource a 'My.Rp/a@1' = {\n  name: 1\n}",
        "resource a 'My.Rp/a@1' = {}",
        "resource a 'My.Rp@1' = {\n  name: 'a'\n}",
        "resource a 'My.Rp/a@1' = {\n  name: 'a'\n  parent: 'b'\n}",
        "resource a 'My.Rp/a@1' = {\n  name: 'a'\n  dependsOn: ['b']\n}",
        "resource a 'My.Rp/a@1' = {\n  name: 'a'\n  b: map\n}",
        "resource a 'My.Rp/a@1' = {\n  name: 'a'\n}\nresource b 'My.Rp/b@1' = {\n  name: 'b'\n  c: a\n}",
        "resource a 'My.Rp/a@1' = if (false) {\n  name: 'a'\n}\noutput b string = a.location",
        "module a 'main.bicep' = {\n  scope: resourceGroup('g')\n}",
        "module a 'none.bicep' = {\n  scope: resourceGroup('g')\n}",
        "module a 'none.bicep' = {}",
        f"{GROUP}module a 'x.bicep' = if (false) {{\n  scope: group\n}}\noutput b string = a.outputs.b",
        "output a int = 'b'",
        "output a bool = 1",
        f"{ACCOUNT}output a int = account.properties.count",
        "var a = " + "(" * 9000 + "1" + ")" * 9000,
        "param a",
        "\xff",
    ],
    ids=lambda source: source.replace("\n", " ")[:60].encode("ascii", "replace").decode(),
)
def test_what_is_not_understood_says_where(source: str) -> None:
    with pytest.raises(BicepError, match=r"\Amain\.bicep:\d+: "):
        run(source)


WORDS = re.split(
    " ",
    "param var output resource module type string int bool array object = == ( ) [ ] { } : , . ? ?? ! && || +"
    " - => for in if a b 'c' '${a}' 1 true null map items union concat empty length guid string json x"
    " 'My.Rp/a@1' name scope parent existing @minValue(1) @allowed( resourceGroup resourceId loadJsonContent"
    " toObject",
)


@settings(max_examples=examples(400), deadline=None)
@given(
    st.lists(st.sampled_from([*WORDS, "\n"]), max_size=30).map(" ".join),
    st.sampled_from(["", ACCOUNT, "param a string = '1'\nvar b = [a]\n"]),
)
def test_whatever_is_written_it_is_evaluated_or_refused(words: str, before: str) -> None:
    for source in (f"{before}var found = {words}\noutput o object = {{ a: {words} }}", f"{before}{words}"):
        refused = ""
        try:
            run(source)
        except BicepError as error:
            refused = str(error)
        assert re.match(r"main\.bicep:\d+: |$", refused)


INFRA = read_folder(PROJECT / "infra")
LEAVES = {
    path: [node for node in walk(parse(source)) if not node.children and node.end_byte > node.start_byte]
    for path, source in INFRA.items()
    if path.endswith(".bicep")
}


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_a_template_with_another_word_in_it_is_evaluated_or_refused(data: st.DataObject) -> None:
    """A word of some template instead of another one, or of none, in whichever is deployed."""
    path = data.draw(st.sampled_from(sorted(LEAVES)))
    changed = data.draw(st.sampled_from(LEAVES[path]))
    other = data.draw(st.sampled_from(LEAVES[data.draw(st.sampled_from(sorted(LEAVES)))]))
    word = (other.text or b"") if data.draw(st.booleans()) else b""
    source = INFRA[path][: changed.start_byte] + word + INFRA[path][changed.end_byte :]
    refused = ""
    try:
        deploy({**INFRA, path: source}, data.draw(st.sampled_from(SCENARIOS)).parameters)
    except BicepError as error:
        refused = str(error)
    assert re.match(r"(modules/)?[a-z-]+\.bicep:\d+: |$", refused)


def test_further_app_settings_are_sent_in_the_order_of_azure() -> None:
    parameters = {**BASE, "appSettings": {"b": "2", "A": "1", "C_": "x", "Ca": "y"}}
    (site,) = deploy(INFRA, parameters).of("Microsoft.Web/sites")
    names = [each["name"] for each in site.properties["siteConfig"]["appSettings"]]
    assert [name for name in names if name in parameters["appSettings"]] == ["A", "b", "Ca", "C_"]
