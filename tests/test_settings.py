"""Settings: one reader of the environment, one clear line when something is wrong."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from app.settings import Settings, SettingsError, env_example, load_settings
from tests.certificates import Authority, Pair

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GATEWAY_ variable and no .env of the person who runs the tests."""
    import os

    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_env_example_is_complete() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "renew it: python -m app.settings > .env.example"


def test_the_defaults_of_env_example_are_accepted(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(env_example().replace("#GATEWAY_", "GATEWAY_"))
    assert load_settings() == Settings()


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("GATEWAY_PORT=1\nGATEWAY_HOST=::1\n")
    monkeypatch.setenv("GATEWAY_PORT", "2")
    assert (load_settings().port, load_settings().host) == (2, "::1")


def test_languages_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_LANGUAGE_CODES", "de-DE, en-US")
    assert load_settings().language_codes == ("de-DE", "en-US")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "abc", "GATEWAY_PORT: 'abc': Input should be a valid integer"),
        ("PORT", "70000", "less than or equal to 65535"),
        ("UPSTREAM", "azure", "'azure' is none of emulator, google, grpc://HOST:PORT, grpcs://HOST:PORT"),
        ("UPSTREAM", "grpc://nowhere", "'grpc://nowhere' is none of"),
        ("UPSTREAM", "grpc://h:99999", "GATEWAY_UPSTREAM: 'grpc://h:99999' has no port from 1 to 65535"),
        ("UPSTREAM", "grpc://h:0", "'grpc://h:0' has no port from 1 to 65535"),
        ("LANGUAGE_CODES", "en-US,foo_bar", "GATEWAY_LANGUAGE_CODES: 'foo_bar' is no BCP-47 code such as en-US"),
        ("TRUSTED_PROXIES", "127.0.0.1,zzz", "GATEWAY_TRUSTED_PROXIES: 'zzz' does not appear to be an IPv4 or IPv6"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.1/8 has host bits set: allowed are addresses and networks"),
        ("TRUSTED_PROXIES", "*,10.0.0.1", "or * alone"),
        ("IDLE_TIMEOUT_SECONDS", "inf", "GATEWAY_IDLE_TIMEOUT_SECONDS: 'inf': Input should be a finite number"),
        ("REPLAY_SECONDS", "nan", "GATEWAY_REPLAY_SECONDS: 'nan': Input should be a finite number"),
        ("SPEECH_API", "v3", "GATEWAY_SPEECH_API: 'v3': Input should be 'v1' or 'v2'"),
        ("GOOGLE_CREDENTIALS_FILE", "/nonexistent.json", "there is no file '/nonexistent.json'"),
        ("LEG_SOFT_LIMIT_SECONDS", "290", "must not be over GATEWAY_LEG_HARD_LIMIT_SECONDS"),
        ("REPLAY_SECONDS", "30", "must be over GATEWAY_MAX_UTTERANCE_SECONDS"),
        ("HOST", "0.0.0.0", "GATEWAY_HOST=0.0.0.0 without authentication: everybody who reaches it could use it"),
        ("HOST", "gateway.example", "or GATEWAY_AUTH=none if that is meant"),
        ("AUTH", "off", "GATEWAY_AUTH: 'off': Input should be 'none'"),
        ("API_KEYS_FILE", "/nonexistent.toml", "GATEWAY_API_KEYS_FILE: there is no file '/nonexistent.toml'"),
        ("JWT_SECRET", "short", "GATEWAY_JWT_SECRET: it is shorter than 32 bytes, the least for HS256"),
        ("JWT_SECRET", "x" * 32, "GATEWAY_JWT_AUDIENCE is missing"),
        ("JWT_JWKS", "/nonexistent.json", "'/nonexistent.json' is neither a file nor an https:// URL"),
        ("JWT_JWKS", "http://keys.example/jwks", "http:// on loopback alone"),
        (
            "ALLOWED_ORIGINS",
            "app.example",
            "GATEWAY_ALLOWED_ORIGINS: 'app.example' is no origin such as https://app.example",
        ),
        ("ALLOWED_ORIGINS", "https://app.example/page", "without a path"),
        ("OPEN_ROUTES", "config,healthz", "GATEWAY_OPEN_ROUTES: 'healthz' is none of config, metrics, docs"),
        ("AUTH_FAILURES_PER_MINUTE", "0", "greater than or equal to 1"),
        ("TLS_KEY_FILE", "/nonexistent.pem", "GATEWAY_TLS_KEY_FILE: there is no file '/nonexistent.pem'"),
        ("TLS_CERTIFICATE_FILE", __file__, "GATEWAY_TLS_KEY_FILE go together: GATEWAY_TLS_KEY_FILE is missing"),
        ("UPSTREAM_KEY_FILE", __file__, "go together: GATEWAY_UPSTREAM_CERTIFICATE_FILE is missing"),
        ("UPSTREAM_CA_FILE", __file__, f"GATEWAY_UPSTREAM_CA_FILE: there is no certificate in PEM in '{__file__}'"),
        ("UPSTREAM", "grpcs://nowhere", "'grpcs://nowhere' is none of"),
        ("PROT", "1", "GATEWAY_PROT: there is no such setting; did you mean GATEWAY_PORT?"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trusted_proxies", "*"),
        ("trusted_proxies", "10.0.0.0/8, ::1, 192.0.2.7"),
        ("upstream", "grpc://stt.example:65535"),
        ("upstream", "grpcs://stt.example:443"),
        ("language_codes", "auto,en,cmn-Hans-CN"),
    ],
)
def test_what_is_right_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)
    taken = getattr(load_settings(), name)
    assert (",".join(taken) if isinstance(taken, tuple) else taken) == value


def test_no_float_may_be_infinite() -> None:
    """Whichever setting it is."""
    floats = [name for name, setting in Settings.model_fields.items() if setting.annotation is float]
    assert len(floats) > 10
    for name in floats:
        for value in ("inf", "nan"):
            with pytest.raises(ValueError, match=name):
                Settings.model_validate({name: value})


def test_an_unknown_setting_in_the_file_is_told_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_PROT=1\nOTHER=2\n")
    with pytest.raises(SettingsError, match="did you mean GATEWAY_PORT"):
        load_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_nobody_is_asked_who_they_are_on_this_machine_alone(host: str) -> None:
    assert not Settings(host=host).asks_who


def test_more_than_this_machine_may_be_meant() -> None:
    assert Settings(host="0.0.0.0", auth="none").host == "0.0.0.0"


def test_keys_and_everybody_are_not_both_meant() -> None:
    with pytest.raises(ValueError, match="GATEWAY_AUTH=none, though keys are configured"):
        Settings.model_validate({"auth": "none", "jwt_secret": "x" * 32, "jwt_audience": "a"})


def test_no_secret_is_in_a_picture_of_the_settings() -> None:
    """As it may stand in a traceback."""
    secrets = {"jwt_secret": "the-secret-of-signed-tokens-is-long", "store": "redis://:password-of-redis@h:1/0"}
    shown = repr(Settings.model_validate({"jwt_audience": "a", **secrets}))
    assert "the-secret" not in shown and "password-of-redis" not in shown


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def _told(**settings: object) -> str:
    with pytest.raises(ValueError, match="GATEWAY_") as error:
        Settings.model_validate(settings)
    return str(error.value).splitlines()[1]


def test_a_key_that_does_not_fit_is_told(authority: Authority) -> None:
    one, other = authority.issue(), authority.issue()
    mixed = Pair(one.certificate, other.key)
    said = f"the key in '{other.key}' does not fit the certificate in '{one.certificate}'"
    assert f"GATEWAY_TLS_CERTIFICATE_FILE and GATEWAY_TLS_KEY_FILE: {said}" in _told(**mixed.settings())
    upstream = {"upstream": "grpcs://h:1"} | mixed.settings("upstream")
    assert f"GATEWAY_UPSTREAM_CERTIFICATE_FILE and GATEWAY_UPSTREAM_KEY_FILE: {said}" in _told(**upstream)


def test_an_encrypted_key_is_told_and_nobody_is_asked(authority: Authority) -> None:
    pair = authority.issue()
    key = load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert f"the key in '{pair.key}' is encrypted" in _told(**pair.settings())


@pytest.mark.parametrize("what", ["certificate", "private key"])
def test_a_file_without_what_it_is_for_is_told(authority: Authority, what: str) -> None:
    pair = authority.issue()
    path = pair.certificate if what == "certificate" else pair.key
    path.write_text("nothing")
    assert f"there is no {what} in PEM in '{path}'" in _told(**pair.settings())


def test_a_file_that_is_cut_off_is_told(authority: Authority) -> None:
    pair = authority.issue()
    pair.certificate.write_bytes(pair.certificate.read_bytes()[:200])
    assert f"'{pair.certificate}' with '{pair.key}': " in _told(**pair.settings())


@pytest.mark.parametrize("upstream", ["emulator", "google", "grpc://h:1"])
def test_certificates_for_an_upstream_without_tls_are_told(authority: Authority, upstream: str) -> None:
    """Who gives them believes that they are used."""
    said = f"is for GATEWAY_UPSTREAM=grpcs://HOST:PORT, not for {upstream}"
    assert said in _told(upstream=upstream, upstream_ca_file=authority.ca)
    assert said in _told(upstream=upstream, **authority.issue().settings("upstream"))
