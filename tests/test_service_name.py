# SPDX-License-Identifier: Apache-2.0
"""Names of services: command lines as ps(1) shows them -> what people call the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from proc_tree import add_process

from instrumenter.discovery.otel_env import resource_attributes
from instrumenter.discovery.procfs import Facts, ProcFS
from instrumenter.discovery.service_name import ServiceNamer

PYTHON = "/usr/bin/python3.11"
NODE = "/usr/bin/node"
JAVA = "/opt/java/bin/java"
RUBY = "/usr/local/bin/ruby"
PHP = "/usr/bin/php8.2"
DOTNET = "/usr/share/dotnet/dotnet"
BEAM = "/usr/lib/erlang/erts-13.1/bin/beam.smp"

# (executable, working directory, command line, name)
COMMANDS = [
    # Python: scripts
    (PYTHON, "/srv/checkout", "python3 /srv/checkout/app.py", "checkout"),
    (PYTHON, "/srv/checkout", "python app.py --port 8000", "checkout"),
    (PYTHON, "/", "/usr/bin/python3 -u /opt/billing/src/main.py", "billing"),
    (PYTHON, "/tmp", "python3 /home/alice/ledger.py", "ledger"),
    (PYTHON, "/", "python3 -X dev -W ignore -Im http.server 8000", "http.server"),
    (PYTHON, "/home/alice/inventory", "python3 -c 'import app; app.run()'", "inventory"),
    (PYTHON, "/home/alice", "python3", "unknown_service:python3.11"),
    (PYTHON, "/", "python3 /srv/worker.pyz", "worker"),
    (PYTHON, "/srv/releases/20240101120000", "python3 server.py", "server"),
    (PYTHON, "/srv/mail/releases/20240101120000", "python3 server.py", "mail"),
    (PYTHON, "/srv/shop", "python manage.py runserver 0.0.0.0:8000", "shop"),
    (PYTHON, "/", "/usr/bin/python3 /usr/bin/supervisord -n", "supervisord"),
    # Python: modules
    (PYTHON, "/", "python -m http.server", "http.server"),
    (PYTHON, "/srv/pay", "python -mcheckout.main", "checkout"),
    (PYTHON, "/srv/pay", "python3.11 -m app.main", "pay"),
    (PYTHON, "/srv/pay", "python3 -m payments.gateway", "payments.gateway"),
    # Python: servers of applications
    (PYTHON, "/srv/shop", "/srv/venv/bin/python3 /srv/venv/bin/gunicorn app:app", "shop"),
    (PYTHON, "/x", "/v/bin/python /v/bin/gunicorn -w 4 -b 0.0.0.0:8000 shop.wsgi:application", "shop"),
    (PYTHON, "/x", "/v/bin/python /v/bin/gunicorn -w 4 -k uvicorn.workers.UvicornWorker src.cart.main:app", "cart"),
    (PYTHON, "/x", "python -m gunicorn --bind unix:/run/g.sock --chdir /srv/orders wsgi", "orders"),
    (PYTHON, "/x", "python -m gunicorn --name=storefront --workers 3 app:app", "storefront"),
    (PYTHON, "/x", "python -m gunicorn -n storefront app:app", "storefront"),
    (PYTHON, "/x", ["gunicorn: master [catalog]"], "catalog"),
    (PYTHON, "/srv/shop", ["gunicorn: worker [app:app]"], "shop"),
    (PYTHON, "/x", ["gunicorn: worker [mail.wsgi:application]"], "mail"),
    (PYTHON, "/x", "/v/bin/python3 /v/bin/uvicorn search.api:app --host 0.0.0.0 --port 80 --workers 4", "search"),
    (PYTHON, "/srv/search/app", "/v/bin/python3 /v/bin/uvicorn main:app --reload", "search"),
    (PYTHON, "/x", "/v/bin/python3 /v/bin/uvicorn --reload --factory prices:create_app", "prices"),
    (PYTHON, "/x", "python -m hypercorn quotes:app --bind 0.0.0.0:80", "quotes"),
    (PYTHON, "/x", "/v/bin/python /v/bin/granian --interface asgi rates.main:app", "rates"),
    (PYTHON, "/x", "/v/bin/python /v/bin/flask --app hello run --port 80", "hello"),
    (PYTHON, "/srv/blog", "/v/bin/python /v/bin/flask run", "blog"),
    (PYTHON, "/x", "/v/bin/python /v/bin/celery -A newsletter worker -l info -c 4", "newsletter"),
    (PYTHON, "/x", "/v/bin/python /v/bin/celery --app=proj.celery_app:app worker", "proj"),
    (PYTHON, "/x", "/v/bin/python /v/bin/fastapi run /srv/quotes/app/main.py", "quotes"),
    (PYTHON, "/x", "/v/bin/python /v/bin/opentelemetry-instrument gunicorn api.stock:app", "stock"),
    ("/usr/bin/uwsgi", "/x", "uwsgi --http :80 --master --module wiki.wsgi:application", "wiki"),
    ("/usr/bin/uwsgi-core", "/x", "/usr/bin/uwsgi --ini /etc/uwsgi/apps-enabled/forum.ini", "forum"),
    # Node, Bun, Deno
    (NODE, "/", "node /srv/cart/server.js", "cart"),
    (NODE, "/srv/cart", "node index.js", "cart"),
    (NODE, "/", "/usr/bin/node --max-old-space-size=512 -r dotenv/config /srv/cart/dist/main.js", "cart"),
    (NODE, "/", "node /srv/cart/mailer.mjs", "mailer"),
    (NODE, "/", "node --title=quotes /srv/x/server.js", "quotes"),
    (NODE, "/srv/web", "node /srv/web/node_modules/.bin/next start -p 3000", "web-frontend"),
    (NODE, "/srv/landing", ["next-server (v14.1.0)"], "landing"),
    (NODE, "/", "node /usr/lib/node_modules/npm/bin/npm-cli.js start", "npm"),
    (NODE, "/", ["PM2 v5.3.0: God Daemon (/root/.pm2)"], "pm2"),
    ("/usr/bin/deno", "/", "deno run --allow-net /srv/maps/main.ts", "maps"),
    ("/usr/bin/bun", "/srv/chat", "bun run index.ts", "chat"),
    ("/usr/bin/bun", "/srv/chat", "bun run start", "chat"),
    # Java
    (JAVA, "/", "java -Xmx1g -jar /opt/foo-1.2.3.jar", "foo"),
    (JAVA, "/", "java -jar billing-service-0.0.1-SNAPSHOT.jar --server.port=80", "billing-service"),
    (JAVA, "/", "java -jar /srv/pricing/app.jar", "pricing"),
    (JAVA, "/deployments", "java -jar /opt/rates/quarkus-app/quarkus-run.jar", "rates"),
    (JAVA, "/", "java -Dspring.application.name=loans -jar app.jar", "loans"),
    (JAVA, "/", "java -jar app.jar --spring.application.name=loans2", "loans2"),
    (JAVA, "/", "java -cp /a.jar:/b.jar -Dx=y com.acme.checkout.Main --port 80", "checkout"),
    (JAVA, "/", "java -cp /a.jar com.acme.CheckoutServer", "CheckoutServer"),
    (JAVA, "/", "java -p mods -m com.acme.ledger/com.acme.ledger.App", "ledger"),
    (JAVA, "/srv/quotes", "java -cp . org.springframework.boot.loader.launch.JarLauncher", "quotes"),
    (JAVA, "/", "java -Dcatalina.base=/var/lib/tomcat9 org.apache.catalina.startup.Bootstrap start", "tomcat"),
    (JAVA, "/", "java -Dcatalina.base=/srv/portal org.apache.catalina.startup.Bootstrap start", "portal"),
    (JAVA, "/", "java -Xms1g -cp /k/libs/* kafka.Kafka /etc/kafka/server.properties", "kafka"),
    # Ruby, PHP, Perl, .NET, Erlang, shells
    (RUBY, "/srv/forum", ["puma 5.6.5 (tcp://0.0.0.0:9292) [forum-web]"], "forum-web"),
    (RUBY, "/srv/forum", ["puma: cluster worker 0: 17 [forum-web]"], "forum-web"),
    (RUBY, "/srv/forum", "ruby bin/rails server -b 0.0.0.0", "forum"),
    (RUBY, "/srv/forum/current", "/usr/bin/ruby /usr/local/bin/puma -C config/puma.rb", "forum"),
    (RUBY, "/srv/forum", ["unicorn master -c config/unicorn.rb"], "forum"),
    (RUBY, "/", ["sidekiq 6.5.1 forum [0 of 5 busy]"], "forum"),
    (RUBY, "/", "ruby -W0 /opt/tools/webhook.rb", "webhook"),
    (PHP, "/srv/blog", "php -S 0.0.0.0:80 -t public", "blog"),
    (PHP, "/srv/crm", "php artisan serve --host=0.0.0.0", "crm"),
    (PHP, "/", "php /srv/crm/consumer.php", "consumer"),
    ("/usr/sbin/php-fpm8.2", "/", ["php-fpm: pool intranet"], "intranet"),
    ("/usr/sbin/php-fpm8.2", "/", ["php-fpm: pool www"], "php-fpm"),
    ("/usr/sbin/php-fpm8.2", "/", ["php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)"], "php-fpm"),
    ("/usr/bin/perl", "/", "/usr/bin/perl -T /opt/gw/smsgate.pl", "smsgate"),
    ("/usr/bin/perl", "/", "perl /usr/bin/plackup -p 5000 /srv/wiki/app.psgi", "wiki"),
    (DOTNET, "/app", "dotnet Acme.Checkout.Api.dll", "Acme.Checkout.Api"),
    (DOTNET, "/", "dotnet run --project src/Orders/Orders.csproj", "Orders"),
    (BEAM, "/", "beam.smp -- -root /usr/lib/erlang -noshell -sname rabbit@node1 -boot start", "rabbit"),
    ("/bin/bash", "/", "/bin/bash /opt/jobs/nightly.sh", "nightly"),
    ("/bin/dash", "/", "sh -c 'curl http://x'", "sh"),
    # native
    ("/usr/sbin/nginx", "/", ["nginx: worker process"], "nginx"),
    ("/usr/lib/postgresql/15/bin/postgres", "/", ["postgres: checkpointer "], "postgres"),
    ("/usr/bin/redis-server", "/", ["redis-server 127.0.0.1:6379"], "redis-server"),
    ("/opt/cart/bin/server", "/", "/opt/cart/bin/server --port 80", "cart"),
    ("/usr/bin/curl", "/srv/x", "curl -s http://localhost/", "curl"),
    ("/memfd:x (deleted)", "/", "/opt/caddy run", "caddy"),
]  # fmt: skip

PACKAGES = {
    "/srv/cart/package.json": '{"name": "@acme/cart"}',
    "/srv/web/package.json": '{"name": "web-frontend"}',
    "/srv/landing/package.json": "{not json",
}

DOCKER_ID = "0123456789abcdef" * 4
DOCKER = f"0::/system.slice/docker-{DOCKER_ID}.scope\n"
POD = (
    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_0a1b2c3d4e5f.slice/"
    f"cri-containerd-{DOCKER_ID}.scope\n"
)
UNIT = "0::/system.slice/shop-web.service\n"
SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
MANAGER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-shell-1.scope\n"

BOTH = {"OTEL_SERVICE_NAME": "a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=b"}

# (executable, command line, environment, cgroup, parent's cgroup, name)
SURROUNDINGS = [
    (PYTHON, "python /x/ledger.py", {"OTEL_SERVICE_NAME": "books"}, "", "", "books"),
    (PYTHON, "python /x/ledger.py", {"OTEL_SERVICE_NAME": ""}, "", "", "ledger"),
    (PYTHON, "python /x/ledger.py", {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=my%20books"}, "", "", "my books"),
    (PYTHON, "python /x/ledger.py", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=%zz"}, "", "", "ledger"),
    (PYTHON, "python /x/ledger.py", BOTH, "", "", "a"),
    (PYTHON, "python /x/ledger.py", {}, UNIT, "", "ledger"),
    (PYTHON, "python /app/main.py", {}, UNIT, "", "shop-web"),
    (PYTHON, "python /app/main.py", {}, SESSION, "", "main"),
    (PYTHON, "python /app/main.py", {}, MANAGER, "", "main"),
    (PYTHON, "python /app/main.py", {"HOSTNAME": "checkout-7d9f8b6c5d-x2x4k"}, POD, "", "checkout"),
    (PYTHON, "python /app/main.py", {"HOSTNAME": "orders-2"}, POD, "", "orders"),
    (PYTHON, "python /app/main.py", {"HOSTNAME": "payments"}, DOCKER, "", "payments"),
    (PYTHON, "python /app/main.py", {"HOSTNAME": DOCKER_ID[:12]}, DOCKER, "", "main"),
    (PYTHON, "python /app/main.py", {"HOSTNAME": "laptop"}, "", "", "main"),
    ("/app/server", "/app/server", {"HOSTNAME": "checkout-7d9f8b6c5d-x2x4k"}, POD, "", "checkout"),
    ("/usr/bin/envoy", "envoy -c x", {"HOSTNAME": "checkout-7d9f8b6c5d-x2x4k"}, POD, "", "envoy"),
    ("/usr/bin/thing", "thing", {}, UNIT, "", "shop-web"),
    ("/usr/bin/curl", "curl x", {}, "0::/system.slice/cron.service\n", "0::/system.slice/cron.service\n", "curl"),
    ("/usr/bin/x", "x", {}, r"0::/system.slice/system-pg.slice/pg\x2dmain@14.service" "\n", "", "pg-main@14"),
    (BEAM, "beam.smp -- -noshell", {"RELEASE_NAME": "ticker"}, "", "", "ticker"),
]  # fmt: skip


def name_of(root: Path, pid: int = 50, override: str = "") -> str:
    procfs = ProcFS(root)
    facts = procfs.facts(pid)
    assert facts is not None
    return ServiceNamer(procfs, override).name(facts)


@pytest.mark.parametrize(("exe", "cwd", "command", "expected"), COMMANDS)
def test_command_line(tmp_path: Path, exe: str, cwd: str, command: str | list[str], expected: str) -> None:
    add_process(tmp_path, 50, command, exe=exe, cwd=cwd, files=PACKAGES)
    assert name_of(tmp_path) == expected


@pytest.mark.parametrize(("exe", "command", "environ", "cgroup", "above", "expected"), SURROUNDINGS)
def test_surroundings(
    tmp_path: Path, exe: str, command: str, environ: dict[str, str], cgroup: str, above: str, expected: str
) -> None:
    add_process(tmp_path, 40, "parent", exe="/bin/parent", cgroup=above)
    add_process(tmp_path, 50, command, ppid=40, exe=exe, environ=environ, cgroup=cgroup)
    assert name_of(tmp_path) == expected
    assert name_of(tmp_path, override="given") == "given"


def test_multiprocessing_worker_has_its_parents_name(tmp_path: Path) -> None:
    add_process(tmp_path, 40, "/v/bin/python /v/bin/uvicorn quotes:app --workers 2", exe=PYTHON)
    spawned = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
    add_process(tmp_path, 50, ["/v/bin/python", "-c", spawned, "--multiprocessing-fork"], ppid=40, exe=PYTHON)
    assert name_of(tmp_path) == "quotes"


@pytest.mark.parametrize(("exe", "path", "expected"), [
    ("/usr/bin/python3.11", "/usr/bin/python3.11", "unknown_service:python3.11"),
    ("/usr/bin/curl", "/usr/bin/curl", "curl"),
    ("", "./tool", "tool"),
])  # fmt: skip
def test_vanished_process(tmp_path: Path, exe: str, path: str, expected: str) -> None:
    facts = Facts(7, exe=exe, cmdline=(path,), comm=path.rpartition("/")[2][:15], partial=True)
    assert ServiceNamer(ProcFS(tmp_path)).name(facts) == expected


def test_never_only_an_interpreter(tmp_path: Path) -> None:
    """No row of the table, cut after any argument, is named after its interpreter alone."""
    interpreters = {"python", "python3", "python3.11", "node", "java", "ruby", "php", "php8.2", "perl", "dotnet", "bun"}
    procfs = ProcFS(tmp_path)
    for exe, _, command, _ in COMMANDS:
        argv = command.split() if isinstance(command, str) else command
        for n in range(len(argv) + 1):
            name = ServiceNamer(procfs).name(Facts(9, exe=exe, cmdline=tuple(argv[:n]), comm="x"))
            assert name
            assert name not in interpreters


@pytest.mark.parametrize(("text", "expected"), [
    ("", {}),
    ("a=b", {"a": "b"}),
    (" a = b , c=d%2Ce%3D%C3%A9 ,", {"a": "b", "c": "d,e=é"}),
    ("a=b=c", {"a": "b=c"}),
    ("a=", {"a": ""}),
    ("a=b,c", {}),
    ("=b", {}),
    ("a=%", {}),
    ("a=%ff", {}),
])  # fmt: skip
def test_resource_attributes(text: str, expected: dict[str, str]) -> None:
    assert resource_attributes(text) == expected
