"""Made-up events and conditions over them, for the properties of the expression language."""

from hypothesis import strategies as st

KEYS = ("a", "b", "c", "odd key")

numbers = st.sampled_from([0, 1, -1, 2, 3, 2**53 + 1, -(2**63), 2**63 - 1])
doubles = st.sampled_from([0.0, -0.0, 1.0, 0.5, -2.5, 2.0, 1e300, 9007199254740992.0])
texts = st.sampled_from(["", "a", "b", "ab", "é", '"', "\\", "'\n\t\x01\u2028", "1", "true"])
others = st.one_of(st.none(), st.booleans(), texts)
plain = others | numbers
scalars = st.one_of(plain, doubles)


def json(leaves=scalars):
    """JSON values of a few levels."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
        max_leaves=5,
    )


def events(leaves=scalars):
    """Events, some of whose data lack a key."""
    return st.fixed_dictionaries(
        {
            "id": texts,
            "name": st.just("cart/added"),
            "data": st.dictionaries(st.sampled_from(KEYS), json(leaves), max_size=4),
            "user": st.dictionaries(st.sampled_from(("a", "id")), leaves),
            "ts": numbers,
            "v": st.just(""),
        }
    )


def _join(template, *parts):
    return st.tuples(*parts).map(lambda taken: template.format(*taken))


steps = st.sampled_from(["a", "b", "c"]).map(".{}".format) | st.sampled_from(['["odd key"]', "[0]", "[1]", '["a"]'])
roots = st.sampled_from(["event", "async"])
paths = st.one_of(
    st.tuples(roots, st.sampled_from([".data", ".user"]), st.lists(steps, min_size=1, max_size=2)).map(
        lambda taken: taken[0] + taken[1] + "".join(taken[2])
    ),
    st.tuples(roots, st.sampled_from([".id", ".ts", ".data", '["name"]'])).map("".join),
)
number_literals = st.sampled_from(["1", "-1", "2.0", "0.5", "9007199254740993"])
literals = number_literals | st.sampled_from(
    ['"a"', "'b'", '""', "true", "false", "null", "[]", '[1, "a"]', "{}", "[event.data.a, 1]", '{"a": async.data.b}']
)
comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in"])


def values(arithmetic=True):
    """Expressions that give any value."""
    atoms = paths | literals

    def larger(inner):
        kinds = [
            _join("size({})", inner),
            _join("string({})", inner),
            _join("int({})", inner),
            _join("double({})", inner),
            _join("({} ? {} : {})", paths, inner, inner),
            _join("{}[{}]", paths, inner),
        ]
        if arithmetic:
            kinds += [_join(f"({{}} {sign} {{}})", inner, inner) for sign in "+-*/%"] + [_join("(-{})", inner)]
        return st.one_of(kinds)

    return st.recursive(atoms, larger, max_leaves=3)


def conditions(arithmetic=True):
    """Expressions that give a bool, or an error."""
    operand = values(arithmetic)
    field = st.tuples(roots, st.sampled_from([".data", ".user", ".data.a"]), st.sampled_from([".a", ".b"])).map("".join)
    method = st.sampled_from(["startsWith", "endsWith", "contains"])
    simple = st.one_of(
        _join("{} {} {}", operand, comparisons, operand),
        _join("({}) == ({})", paths, paths),
        field.map("has({})".format),
        paths,
        st.sampled_from(["true", "false"]),
        _join("{}.{}({})", paths, method, paths | st.just('"a"')),
        paths.map("{}.matches('^[ab]+$')".format),
        _join("{}.exists(i, i == {})", paths, operand),
        _join("{}.all(i, i != {} || i.a == {})", paths, operand, operand),
    )

    def larger(inner):
        return st.one_of(
            _join("({}) && ({})", inner, inner),
            _join("({}) || ({})", inner, inner),
            _join("{} && {} && {}", simple, simple, simple),
            _join("{} || {} && {}", simple, simple, simple),
            _join("!({})", inner),
            _join("({}) ? ({}) : ({})", inner, inner, inner),
        )

    return st.recursive(simple, larger, max_leaves=4)
