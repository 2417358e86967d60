"""A profile is valid for its kind, or refused with file, profile, key and fix; nothing listens unasked."""

from __future__ import annotations

from pathlib import Path

import dask
import pytest

from engine.errors import ConfigError
from engine.profiles import KINDS, PACKAGED, pick_profile, read_profiles

TLS = "tls: {ca_file: ca.pem, certificate: a.pem, key: a.key}"
SLURM = "kind: slurm, memory_limit: 4GiB"


def write(folder: Path, text: str) -> Path:
    path = folder / "profiles.yaml"
    path.write_text(text)
    return path


def read(folder: Path, body: str):
    """Return one profile of a flow mapping."""
    return read_profiles(write(folder, f"profiles: {{a: {{{body}}}}}"))[0]["a"]


def test_the_packaged_profiles_are_found_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profiles, path = read_profiles(None)
    assert {"local", "threads", "address"} <= set(profiles)
    assert path.name == "cluster.yaml"


def test_the_commented_examples_of_the_packaged_file_are_valid_and_of_every_kind(tmp_path):
    text = PACKAGED[0].read_text(encoding="utf-8")
    head, _, examples = text.partition("# ---")
    lines = [line.replace("  # ", "  ", 1) for line in examples.splitlines()[1:] if line.startswith("  # ")]
    profiles, _ = read_profiles(write(tmp_path, head + "\n" + "\n".join(lines)))
    assert {profile.kind for profile in profiles.values()} == set(KINDS)


def test_a_file_in_the_working_folder_comes_before_the_packaged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("profiles: {mine: {kind: threads, workers: 3}}")
    assert read_profiles(None)[0]["mine"].workers == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("profiles: [", "is not YAML"),
        ("\x00", "is not YAML"),
        ("profiles: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("kind: local", "has no 'profiles:' mapping"),
        ("profiles: {a: }", "profile 'a': kind: .* got None; kinds are local, threads"),
        ("profiles: {a: {kind: dask_jobqueue.SLURMCluster}}", "profile 'a': kind: must be one of a fixed list"),
        ("profiles: {a: {kind: slrum}}", "got 'slrum'; did you mean 'slurm'"),
    ],
)
def test_a_file_or_kind_that_is_wrong_is_one_line(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        read_profiles(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "profiles.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("kind: local, memory: 2GB", "unknown key 'memory'; did you mean 'memory_limit'"),
        ("kind: local, queue: long", "unknown key 'queue'; known keys are workers"),
        ("kind: local, workers: 0", "workers: .*greater than or equal to 1"),
        ("kind: local, workers: 2, adapt: {maximum: 4}", "workers and adapt exclude each other; keep one"),
        ("kind: local, adapt: {minimum: 5, maximum: 4}", "adapt: minimum 5 is above maximum 4"),
        ("kind: local, adapt: {most: 4}", "unknown key 'adapt.most'; "),
        ("kind: local, memory_limit: lots", "memory_limit: must be a number and a unit such as 8GiB, got 'lots'"),
        ("kind: local, environment: {OMP_NUM_THREADS: 2}", "environment.OMP_NUM_THREADS: must be text, got 2; quote"),
        ("kind: local, environment: {AWS_SECRET_ACCESS_KEY: a}", "AWS_SECRET_ACCESS_KEY looks like a secret; give it"),
        ("kind: local, environment: {MY_TOKEN: a}", "MY_TOKEN looks like a secret"),
        ("kind: local, environment: {URL: 'https://a/b?sig=abc'}", "environment.URL: holds a secret"),
        ("kind: threads, dashboard: '0.0.0.0:8787'", "dashboard: must be on 127.0.0.1"),
        ("kind: threads, dashboard: ':8787'", "dashboard: must be on 127.0.0.1"),
        ("kind: threads, threads_per_worker: 2", "unknown key 'threads_per_worker'"),
        ("kind: address", "needs address: tcp://host:port or tls://host:port, got None"),
        ("kind: address, address: 'http://127.0.0.1:1'", "needs address"),
        ("kind: address, address: 'tcp://127.0.0.1:port'", "needs address"),
        ("kind: address, address: 'tls://127.0.0.1:8786'", "a tls:// address needs tls"),
        ("kind: address, address: 'tcp://127.0.0.1:8786', " + TLS, "the address is tcp://; write tls://"),
        ("kind: ssh", "'hosts' is missing; add it"),
        ("kind: ssh, hosts: []", "hosts: "),
        ("kind: ssh, hosts: ['-oProxyCommand=x'], plain: yes", "hosts.0: "),
        ("kind: slurm, interface: lo", "memory_limit is missing; add it, or jobqueue.slurm.memory"),
        (SLURM + ", interface: lo, walltime: soon", "walltime: must be hours:minutes:seconds"),
        (SLURM + ", interface: lo, walltime: '00:01:00'", "walltime: must be at least 5 minutes"),
        (SLURM + ", interface: lo, queue: 'a; rm -rf /'", "queue: "),
        (SLURM + ", interface: lo, setup: ['export API_TOKEN=5']", "setup.0: API_TOKEN looks like a secret"),
        (SLURM + ", interface: lo, directives: [\"a\\nb\"]", "directives.0: must be one line of text"),
        ("kind: gateway, address: 'http://gateway.example.org'", "address must be https://host, or http:// on loop"),
        ("kind: gateway, address: 'https://me:word@example.org'", "address carries credentials"),
        ("kind: gateway, address: 'https://a.org', auth: my.module.Auth", "auth: .*'basic', 'kerberos' or"),
        ("kind: gateway, address: 'https://a.org', options: {api_token: a}", "api_token looks like a secret"),
        ("kind: gateway, address: 'https://a.org', options: {auth: my.Auth}", "'auth' is no option of a cluster"),
        ("kind: gateway, address: 'https://a.org', options: {proxy_address: b}", "'proxy_address' is no option"),
        ("kind: kubernetes, image: 'a/b:1', memory_limit: 4GiB, plain: yes, namespace: A", "namespace: "),
        ("kind: cloud, provider: mine.Cluster", "provider: .*'fargate', 'ec2'"),
        ("kind: cloud, provider: fargate, memory_limit: 8GiB", "say plain: true"),
        ("kind: cloud, provider: ec2, options: {worker_module: x}", "unknown option 'worker_module' of ec2"),
        ("kind: cloud, provider: ec2, options: {subnet: x}", "option 'subnet' of ec2; did you mean 'subnet_id'"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_fix(tmp_path, body, expected):
    with pytest.raises(ConfigError, match=f"^cluster file .*profiles.yaml: profile 'a': .*(?:{expected})") as caught:
        read(tmp_path, body)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "says what to do"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("kind: address, address: 'tcp://10.0.0.5:8786'", "tcp://10.0.0.5:8786"),
        ("kind: address, address: 'tcp://127.0.0.1.example.org:8786'", "tcp://127.0.0.1.example.org:8786"),
        ("kind: ssh, hosts: [127.0.0.1, node2]", "node2"),
        (SLURM, "the scheduler on every interface"),
        (SLURM + ", interface: ib0", "the scheduler on ib0"),
        ("kind: pbs, memory_limit: 4GiB", "the scheduler on every interface"),
        ("kind: kubernetes, image: 'a/b:1', memory_limit: 4GiB", "the scheduler's service"),
    ],
)
def test_beyond_loopback_a_profile_asks_for_tls_or_says_plain(tmp_path, body, where):
    with pytest.raises(ConfigError, match=f"{where}.* would be reached from beyond .*, unencrypted; give tls"):
        read(tmp_path, body)
    assert read(tmp_path, body + ", plain: true").plain
    if "tcp://" not in body and "kubernetes" not in body:
        assert read(tmp_path, f"{body}, {TLS}").tls is not None


def test_yaml_reads_a_walltime_without_quotes_as_seconds_and_is_understood(tmp_path):
    assert read(tmp_path, SLURM + ", interface: lo, walltime: 12:00:00").walltime == "12:00:00"
    assert read(tmp_path, SLURM + ", interface: lo, walltime: 1-00:00:00").walltime == "1-00:00:00"


def test_the_users_own_settings_of_dask_fill_what_a_batch_profile_leaves_out(tmp_path):
    with dask.config.set({"jobqueue.slurm.memory": "8GB", "jobqueue.slurm.interface": "lo"}):
        assert read(tmp_path, "kind: slurm").memory_limit is None
    with (
        dask.config.set({"jobqueue.slurm.memory": "8GB", "jobqueue.slurm.interface": "ib0"}),
        pytest.raises(ConfigError, match="the scheduler on ib0"),
    ):
        read(tmp_path, "kind: slurm")


def test_files_of_a_profile_are_checked_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, f"profiles: {{a: {{kind: local, {TLS}}}}}")
    with pytest.raises(ConfigError, match=r"profile 'a': tls.ca_file: ca.pem is not a file; check the path"):
        pick_profile("a", path)
    for name in ("ca.pem", "a.pem", "a.key"):
        Path(name).write_text("-")
        Path(name).chmod(0o644)
    with pytest.raises(ConfigError, match=r"tls.key: a.key can be read by others; chmod 600 a.key"):
        pick_profile("a", path)
    Path("a.key").chmod(0o600)
    assert pick_profile("a", path).tls is not None


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"profiles: {\xe9: 1}")
    for path in (tmp_path / "latin.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_profiles(path)
