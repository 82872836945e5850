"""The contestants: how each is started between a service and a public port, always in the same way.

Life of a contestant: made -> start(service_port) -> its public port echoes -> stop(). It is started anew for each
measurement. What is counted as its cost is roots() and all that descends from them. Where its halves stand, and what
lies between them, is its place's to say (places.py).
"""

import dataclasses
import os
import shutil
import subprocess
import textwrap

from . import environment
from .processes import BenchError, Process, accepts, echoes, free_host, free_port, wait_until

START_TIMEOUT_S = 20
CONNS_MOST = 24_000


def unnamed(*variables):
    """Which of these variables of the environment names no binary; empty when all do."""
    for variable in variables:
        if not os.path.exists(os.environ.get(variable, "")):
            return f"{variable} does not name a binary"
    return ""


class Contestant:
    """What all have in common. Subclasses start their processes in launch()."""

    name = ""
    label = ""
    # A variant of another contestant runs only the workloads that tell variants apart.
    is_variant = False
    has_processes = True
    # Names of the workloads that it can take part in, * for any text; empty: all.
    only_workloads = ()
    # Whether it can be started elsewhere than on loopback without delay.
    goes_anywhere = False
    # What its processes are, in the order of their start, for figures of each; and whether their allocations can be
    # counted: not those of a program that does not use the C library's allocator, or drops its environment.
    roles = ()
    allocates_countably = False
    is_ours = False
    period_s = 0  # what it does by itself from time to time comes this often
    settle_s = 0  # what it does because many visitors came is over after this time

    def __init__(self, tools):
        self.tools = tools
        self.processes = []
        self.place = None
        self.public_host, self.public_port = "127.0.0.1", 0
        self.folder = ""
        self.allocation_counter = None  # when its processes shall be counted

    def missing(self):
        """Why it cannot run here; empty when it can."""
        return ""

    def version(self):
        return ""

    def launch(self, service_port):
        raise NotImplementedError

    def start(self, service_port, folder, place):
        """Returns when one byte has gone through and come back. `folder` is empty, private and kept until stop()."""
        self.folder, self.place = folder, place
        self.public_host = place.edge_host
        self.processes = []
        try:
            self.launch(service_port)
            with place.on_edge():
                wait_until(lambda: echoes(self.public_port, self.public_host), START_TIMEOUT_S,
                           f"the first echo through {self.name}", self.processes)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        for process in reversed(self.processes):
            process.stop()
        self.processes = []

    def roots(self):
        return [process.pid for process in self.processes]

    def require_alive(self):
        for process in self.processes:
            process.require_alive()

    def run(self, *arguments, **options):
        if self.allocation_counter:
            role = self.roles[len(self.processes)]
            options["env"] = self.allocation_counter.environment(role, options.get("env"))
        process = Process([str(argument) for argument in arguments],
                          os.path.join(self.folder, f"{len(self.processes)}.log"), **options)
        self.processes.append(process)
        return process

    def write(self, file_name, text, mode=0o600):
        path = os.path.join(self.folder, file_name)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        os.chmod(path, mode)
        return path


class Chain(Contestant):
    """Two equal relays one behind the other: the first in the agent's half, before the service; the second in the
    edge's half, before the visitors. Subclasses start one in relay()."""
    goes_anywhere = True
    roles = ("agent", "edge")
    allocates_countably = True

    def launch(self, service_port):
        place = self.place
        agent_port, self.public_port = free_port(), free_port()
        with place.on_agent():
            self.relay("0", place.agent_host, agent_port, place.agent_host, service_port)
        with place.on_edge():
            self.relay("1", place.edge_host, self.public_port, *place.path(place.agent_host, agent_port))

    def relay(self, name, host, port, to_host, to_port):
        raise NotImplementedError


class Direct(Contestant):
    """No tunnel at all: what the visitors, the service and the kernel can do by themselves."""
    name = "direct"
    label = "direct"
    has_processes = False
    goes_anywhere = True

    def launch(self, service_port):
        with self.place.on_edge():
            self.public_host, self.public_port = self.place.path(self.place.agent_host, service_port)


class Floor(Chain):
    """Two chained bare splice relays."""
    name = "floor"
    label = "floor (two bare splice relays)"

    def missing(self):
        return "" if os.path.exists(self.tools.floor_relay) else f"{self.tools.floor_relay} is not built"

    def relay(self, name, host, port, to_host, to_port):
        self.run(self.tools.floor_relay, "--listen", f"{host}:{port}", "--to", f"{to_host}:{to_port}")


class Haproxy(Chain):
    """Two chained haproxies, one thread each, that may splice when they find it worth it: 2.6 hardly ever does."""
    name = "haproxy"
    label = "haproxy x2 (splice-auto)"
    SPLICE = ("splice-auto",)

    def missing(self):
        return "" if shutil.which("haproxy") else "haproxy is not installed"

    def version(self):
        return environment.first_line(["haproxy", "-v"])

    def relay(self, name, host, port, to_host, to_port):
        # Only what flows just then holds a pipe. Left to itself it counts one for every fourth connection, and a bound
        # with room for them is below what idle_10000_active_100 gives everybody of 20,000 descriptors.
        pipes_most = min(500, self.tools.fd_limit // 10)
        conns_most = min(CONNS_MOST, (self.tools.fd_limit - 200) // 2 - pipes_most)
        options = "\n                ".join(f"option {one}" for one in self.SPLICE)
        config = self.write(f"haproxy{name}.cfg", f"""\
            global
                nbthread 1
                maxconn {conns_most}
                maxpipes {pipes_most}
            defaults
                mode tcp
                {options}
                timeout connect 5s
                timeout client 1h
                timeout server 1h
            listen bench
                bind {host}:{port}
                server next {to_host}:{to_port}
            """)
        self.run(shutil.which("haproxy"), "-db", "-f", config)


class HaproxySplice(Haproxy):
    """The same, told to splice: what it can do where bytes flow. A small message costs it more so than copied."""
    name = "haproxy-splice"
    label = "haproxy x2 (splice-request, splice-response)"
    only_workloads = ("*bulk_*", "iperf3_*")
    SPLICE = ("splice-request", "splice-response")


class Nginx(Chain):
    """Two chained nginx stream proxies, one worker each."""
    name = "nginx"
    label = "nginx stream x2"
    MODULES = ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/share/nginx/modules/ngx_stream_module.so")

    def module(self):
        return next((path for path in self.MODULES if os.path.exists(path)), "")

    def missing(self):
        if not shutil.which("nginx"):
            return "nginx is not installed"
        return "" if self.module() else "the nginx stream module (libnginx-mod-stream) is not installed"

    def version(self):
        return environment.first_line(["nginx", "-v"])

    def relay(self, name, host, port, to_host, to_port):
        user = "user root;" if os.geteuid() == 0 else ""
        prefix = os.path.join(self.folder, f"nginx{name}")
        os.mkdir(prefix)
        config = self.write(f"nginx{name}.conf", f"""\
            load_module {self.module()};
            {user}
            daemon off;
            worker_processes 1;
            worker_rlimit_nofile {self.tools.fd_limit};
            pid {prefix}/pid;
            error_log stderr error;
            events {{ worker_connections {2 * CONNS_MOST}; }}
            stream {{
                server {{
                    listen {host}:{port} backlog=4096;
                    proxy_pass {to_host}:{to_port};
                    proxy_timeout 1h;
                    proxy_half_close on;
                }}
            }}
            """)
        self.run(shutil.which("nginx"), "-p", prefix, "-e", "stderr", "-c", config)


class SshReverse(Contestant):
    """ssh -R to an sshd of its own. Bytes are encrypted, which none of the others does by default."""
    name = "ssh"
    label = "ssh -R"
    RUN_FOLDER = "/run/sshd"
    made_run_folder = False

    def stop(self):
        super().stop()
        if self.made_run_folder:
            os.rmdir(self.RUN_FOLDER)
            self.made_run_folder = False

    def sshd(self):
        return os.environ.get("SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.defpath) or ""

    def missing(self):
        if not self.sshd() or not os.path.exists(self.sshd()):
            return "sshd (openssh-server) is not installed; SSHD may name its binary"
        return "" if shutil.which("ssh") and shutil.which("ssh-keygen") else "the ssh client is not installed"

    def version(self):
        return environment.first_line(["ssh", "-V"])

    def make_key(self, name):
        path = os.path.join(self.folder, name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def launch(self, service_port):
        # sshd refuses to start as root without it.
        if os.geteuid() == 0 and not os.path.exists(self.RUN_FOLDER):
            os.mkdir(self.RUN_FOLDER, mode=0o755)
            self.made_run_folder = True
        host_key, user_key = self.make_key("host_key"), self.make_key("user_key")
        with open(user_key + ".pub") as key:
            self.write("authorized_keys", key.read())
        port, self.public_port = free_port(), free_port()
        config = self.write("sshd_config", f"""\
            ListenAddress 127.0.0.1:{port}
            HostKey {host_key}
            AuthorizedKeysFile {self.folder}/authorized_keys
            PidFile none
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            PermitRootLogin prohibit-password
            AllowTcpForwarding yes
            """)
        with open(host_key + ".pub") as key:
            known = self.write("known_hosts", f"[127.0.0.1]:{port} {key.read()}")
        daemon = self.run(self.sshd(), "-D", "-e", "-f", config)
        wait_until(lambda: accepts(port), START_TIMEOUT_S, "sshd listening", [daemon])
        self.run(shutil.which("ssh"), "-F", "none", "-N", "-p", port, "-i", user_key,
                 "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
                 "-o", "ExitOnForwardFailure=yes",
                 "-R", f"127.0.0.1:{self.public_port}:127.0.0.1:{service_port}", "127.0.0.1")


class Frp(Contestant):
    """frp with its defaults (TLS, one multiplexed connection). FRPS and FRPC name the binaries."""
    name = "frp"
    label = "frp, its defaults (TLS, mux)"
    SERVER_EXTRA = ""
    CLIENT_EXTRA = ""

    def missing(self):
        return unnamed("FRPS", "FRPC")

    def version(self):
        return environment.first_line([os.environ["FRPS"], "--version"])

    def launch(self, service_port):
        port, self.public_port = free_port(), free_port()
        server = self.write("frps.toml", f"""\
            bindAddr = "127.0.0.1"
            proxyBindAddr = "127.0.0.1"
            bindPort = {port}
            log.level = "error"
            """ + self.SERVER_EXTRA)
        client = self.write("frpc.toml", f"""\
            serverAddr = "127.0.0.1"
            serverPort = {port}
            log.level = "error"
            """ + self.CLIENT_EXTRA + f"""
            [[proxies]]
            name = "bench"
            type = "tcp"
            localIP = "127.0.0.1"
            localPort = {service_port}
            remotePort = {self.public_port}
            """)
        daemon = self.run(os.environ["FRPS"], "-c", server)
        wait_until(lambda: accepts(port), START_TIMEOUT_S, "frps listening", [daemon])
        self.run(os.environ["FRPC"], "-c", client)


class FrpPlain(Frp):
    """frp as fast as its settings allow: no TLS, no mux, a pool of connections dialled ahead."""
    name = "frp-plain"
    label = "frp, no TLS, no mux, pool 50"
    SERVER_EXTRA = """\
            transport.tcpMux = false
            transport.maxPoolCount = 50
            """
    CLIENT_EXTRA = """\
            transport.tcpMux = false
            transport.tls.enable = false
            transport.poolCount = 50
            """


class Rathole(Contestant):
    """rathole over plain TCP. RATHOLE names the binary."""
    name = "rathole"
    label = "rathole, plain TCP"

    def missing(self):
        return unnamed("RATHOLE")

    def version(self):
        return "rathole " + environment.version_of([os.environ["RATHOLE"], "--version"])

    def launch(self, service_port):
        port, self.public_port = free_port(), free_port()
        server = self.write("server.toml", f"""\
            [server]
            bind_addr = "127.0.0.1:{port}"
            default_token = "bench"
            [server.services.bench]
            bind_addr = "127.0.0.1:{self.public_port}"
            """)
        client = self.write("client.toml", f"""\
            [client]
            remote_addr = "127.0.0.1:{port}"
            default_token = "bench"
            [client.services.bench]
            local_addr = "127.0.0.1:{service_port}"
            """)
        env = dict(os.environ, RUST_LOG="error")
        daemon = self.run(os.environ["RATHOLE"], "--server", server, env=env)
        wait_until(lambda: accepts(port), START_TIMEOUT_S, "rathole listening", [daemon])
        self.run(os.environ["RATHOLE"], "--client", client, env=env)


class Bore(Contestant):
    """bore over plain TCP. BORE names the binary."""
    name = "bore"
    label = "bore, plain TCP"
    CONTROL_PORT = 7835  # no flag of either side changes it

    def missing(self):
        return unnamed("BORE")

    def version(self):
        return environment.first_line([os.environ["BORE"], "--version"])

    def launch(self, service_port):
        # Its port is always the same, so its address must be its own: another bore of this host may have that port.
        host, self.public_port = free_host(self.CONTROL_PORT), free_port()
        # It writes several lines for each visitor otherwise.
        env = dict(os.environ, RUST_LOG="error", BORE_SECRET="bench")
        daemon = self.run(os.environ["BORE"], "server", "--bind-addr", host, "--bind-tunnels", self.public_host,
                          "--min-port", self.public_port, "--max-port", self.public_port, env=env)
        wait_until(lambda: accepts(self.CONTROL_PORT, host), START_TIMEOUT_S, "bore listening", [daemon])
        self.run(os.environ["BORE"], "local", service_port, "--local-host", "127.0.0.1", "--to", host,
                 "--port", self.public_port, env=env)


class Natrp(Contestant):
    """Ours: an edge and an agent, one worker each."""
    name = "natrp"
    label = "natrp"
    goes_anywhere = True
    is_ours = True
    period_s = 5  # heartbeats
    settle_s = 10  # its demand for ready channels falls by a tenth each 250 ms, from 64 to 2
    roles = ("edge", "agent")
    allocates_countably = True

    def __init__(self, tools, io="auto", pump="auto", brief_wait="on"):
        super().__init__(tools)
        self.io, self.pump, self.brief_wait = io, pump, brief_wait
        self.is_variant = (io, pump) != ("auto", "auto")
        if self.is_variant:
            self.name = self.label = f"natrp[{io},{pump}]"

    def missing(self):
        absent = [program for program in ("natrp-engine", "natrp", "natrpctl")
                  if not os.path.exists(self.tools.program(program))]
        if absent:
            return f"not built: {', '.join(absent)}"
        refused = environment.io_uring_refused()
        if refused and self.io == "uring":
            return f"io_uring cannot be used here: {refused}"
        if refused and (self.io, self.pump) == ("epoll", "auto") and self.is_variant:
            return f"natrp itself has epoll here: {refused} for io_uring"
        return ""

    def version(self):
        version = environment.first_line([self.tools.program("natrp-engine"), "--version"])
        return version + (", with epoll" if self.io == "auto" and environment.io_uring_refused() else "")

    def launch(self, service_port):
        edge, token = self.launch_edge()
        self.launch_agent("natrp", edge, token, service_port, "--remote-port", self.public_port, *self.settings())

    def settings(self):
        # Older builds, which are compared with this one, do not know the flag.
        brief_wait = [] if self.brief_wait == "on" else ["--brief-wait", self.brief_wait]
        return ["--workers", 1, "--io", self.io, "--pump", self.pump, *brief_wait,
                "--log-level", "warning", "--drain-seconds", 1]

    def launch_edge(self, edge_flags=(), client_flags=()):
        """An edge with one client, whose one public port is ours. Returns (host, port) of the edge, and the file with
        the client's last token."""
        host = self.place.edge_host
        port, self.public_port = free_port(), free_port()
        state = os.path.join(self.folder, "state")
        os.mkdir(state, mode=0o700)
        with self.place.on_edge():
            edge = self.run(self.tools.program("natrp-engine"), "--bind", f"{host}:{port}",
                            "--public-bind", host, "--public-address", host, "--state", state,
                            "--ports", f"{self.public_port}-{self.public_port}", "--admin", "off", *edge_flags,
                            *self.settings())
            wait_until(lambda: accepts(port, host), START_TIMEOUT_S, "the edge listening", [edge])
        added = subprocess.run([self.tools.program("natrpctl"), "--state", state, "client", "add", "bench",
                                "--conns-max", str(CONNS_MOST), *client_flags],
                               capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
        if added.returncode != 0 or not added.stdout.split():
            raise BenchError(f"natrpctl client add failed with code {added.returncode}: {added.stderr.strip()}")
        return (host, port), self.write("token", added.stdout.split()[-1] + "\n")

    def launch_agent(self, program, edge, token, service_port, *more):
        with self.place.on_agent():
            host, port = self.place.path(*edge)
            self.run(self.tools.program(program), "--server", f"{host}:{port}", "--token-file", token,
                     "--local", f"{self.place.agent_host}:{service_port}", *more)


class NatrpMsg(Natrp):
    """The same bytes as the original natrp carries them: our edge, and a client of the original's protocol instead
    of our agent. One call serves one visitor, and the next call comes after it."""
    name = "natrp-msg"
    label = "natrp, original client (gRPC Msg, 16 KiB messages)"
    only_workloads = ("bulk_1_up", "bulk_1_down")

    def missing(self):
        client = self.tools.program("original_client")
        return super().missing() or ("" if os.path.exists(client) else f"{client} is not built")

    def launch(self, service_port):
        edge, token = self.launch_edge(("--natrp-grpc", "on"), ("--plain-token",))
        self.launch_agent("original_client", edge, token, service_port)


class NatrpBuild(Natrp):
    """Ours out of another build folder: a version beside another, or a copy. `settings` are io, pump and variables of
    its environment."""

    def __init__(self, tools, name, build, settings):
        self.variables = {key: value for key, value in settings.items() if key not in ("io", "pump")}
        super().__init__(dataclasses.replace(tools, build=os.path.abspath(build)),
                         settings.get("io", "auto"), settings.get("pump", "auto"))
        self.is_variant = False  # it runs what the one that it is beside runs
        self.name = name
        self.label = " ".join([f"natrp of {build}", *(f"{key}={value}" for key, value in settings.items())])

    def version(self):
        source, build_type = environment.build_of(self.tools.build, self.tools.build)
        return f"{super().version()}, commit {environment.commit_name(source)}, {build_type}"

    def run(self, *arguments, **options):
        return super().run(*arguments, **options, env={**os.environ, **self.variables})


NATRP_VARIANTS = [("epoll", "auto"), ("uring", "splice"), ("uring", "uring"), ("uring", "copy"),
                  ("epoll", "splice"), ("epoll", "copy")]


def beside(tools, text):
    """The contestant that NAME=FOLDER[,io=..][,pump=..][,VARIABLE=VALUE...] names; ValueError says what is wrong."""
    name, _, rest = text.partition("=")
    build, *pairs = rest.split(",")
    settings = dict(pair.partition("=")[::2] for pair in pairs)
    if not name or not build or not all(settings) or not all("=" in pair for pair in pairs):
        raise ValueError(f"'{text}' is not NAME=BUILD or NAME=BUILD,io=epoll,VARIABLE=VALUE")
    contestant = NatrpBuild(tools, name, build, settings)
    if contestant.missing():
        raise ValueError(f"{build}: {contestant.missing()}")
    return contestant


def all_contestants(tools, suite):
    """Those of a suite, in the order in which a round runs them."""
    main = [Direct(tools), Floor(tools), Haproxy(tools), HaproxySplice(tools), Nginx(tools), Natrp(tools),
            NatrpMsg(tools)]
    if suite == "main":
        return main + [SshReverse(tools)]
    variants = [Natrp(tools, io, pump) for io, pump in NATRP_VARIANTS]
    return main + variants + [SshReverse(tools), Frp(tools), FrpPlain(tools), Rathole(tools), Bore(tools)]
