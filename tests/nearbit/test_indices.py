import pytest

from nearbit.indices import IndexListError, parse


@pytest.mark.parametrize(("text", "expected"), [
    ("0", [0]),
    ("3,1", [1, 3]),
    ("2-4", [2, 3, 4]),
    ("2-2", [2]),
    ("2:4", [2, 3]),
    (":3", [0, 1, 2]),
    ("8:", [8, 9]),
    ("-2:", [8, 9]),
    (":-8", [0, 1]),
    (":", list(range(10))),
    ("0:10:4", [0, 4, 8]),
    ("::5", [0, 5]),
    (" 1 , 5-6 ", [1, 5, 6]),
    ("0-3,2,1:6", [0, 1, 2, 3, 4, 5]),
])
def test_lists(text, expected):
    assert parse(text, 10, "--heads").tolist() == expected


@pytest.mark.parametrize(("text", "message"), [
    ("", "--heads: '' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("1,", "--heads: '' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("-1", "--heads: '-1' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("1.5", "--heads: '1.5' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("²", "--heads: '²' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("٣", "--heads: '٣' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("all", "--heads: 'all' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("10", "--heads: there is no 10, they are 0 to 9"),
    ("0-10", "--heads: there is no 10, they are 0 to 9"),
    ("0-999999999999", "--heads: there is no 999999999999, they are 0 to 9"),
    ("0:11", "--heads: there is no 10, they are 0 to 9"),
    ("3-2", "--heads: '3-2' is empty"),
    ("5:5", "--heads: '5:5' is empty"),
    ("20:", "--heads: '20:' is empty"),
    ("::0", "--heads: the step of '::0' is 0"),
])
def test_refused(text, message):
    with pytest.raises(IndexListError) as caught:
        parse(text, 10, "--heads")
    assert str(caught.value) == message
