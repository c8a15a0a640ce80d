"""What every request needs, put together once: whose it is, what its model means, its answer.

Which routes there are: app.py. What each protocol's requests look like: openai/ and anthropic/.
"""

import asyncio
import logging
import time
from functools import partial

from fastapi import Request

from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError
from appliance.core.settings import Settings
from appliance.engine.bases import Base
from appliance.engine.client import AsyncEngine
from appliance.engine.template import Template
from appliance.engine.wire import Generate
from appliance.ingest import Ingest
from policies.labels import flows_to, join
from serving.admission import Admission
from serving.aliases import Alias, Aliases
from serving.answers import Answer
from serving.ask import Ask, Shape
from serving.exchange import Exchange, TapCounts, new_request_id
from serving.keys import Key, KeyRing
from serving.metrics import Metrics
from serving.openai_errors import ApiError
from serving.pauses import Pauses
from serving.quota import Quota
from serving.reply import Reply
from serving.routing import Caller
from serving.structured import require_callable
from serving.under_way import Place, UnderWay, refusal
from serving.versions import Versions

_log = logging.getLogger("espalier.serving")


class Gateway:
    """What a request needs, put together once at start."""

    def __init__(
        self,
        *,
        settings: Settings,
        base: Base,
        template: Template,
        engine: AsyncEngine,
        versions: Versions,
        aliases: Aliases,
        admission: Admission,
        keys: KeyRing,
        pauses: Pauses,
        quota: Quota,
        metrics: Metrics,
        ingest: Ingest,
    ) -> None:
        self.settings = settings
        self.base = base
        self.template = template
        self.engine = engine
        self.versions = versions
        self.aliases = aliases
        self.releases = aliases.main.releases
        """Of the endpoint's own alias."""
        self.admission = admission
        self.keys = keys
        self.pauses = pauses
        self.quota = quota
        self.metrics = metrics
        self.under_way = UnderWay(
            metrics,
            max_under_way=settings.gateway.max_under_way,
            max_waiting=settings.gateway.max_waiting,
        )
        self.ingest = ingest
        self.counts = TapCounts()
        self.context_length = base.context_length
        """Tokens of prompt and answer together; less than the base's where the cache is small."""

    def admit(self, request: Request) -> Key:
        """Whose request it is.

        Raises:
            ApiError: 401 without a good key; 403 where its label is above this endpoint's, or it is
                paused.
        """
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            secret = request.headers.get("x-api-key", "")
        key = self.keys.find(secret.strip())
        if key is None:
            raise ApiError(
                401,
                "a good API key is needed: Authorization: Bearer esp-… or x-api-key: esp-…",
                kind="authentication_error",
                code="invalid_api_key",
            )
        if not flows_to(key.label, self.settings.gateway.label):
            raise ApiError(
                403,
                f"the key's label {key.label!r} is above this endpoint's, "
                f"{self.settings.gateway.label!r}",
                kind="permission_error",
            )
        stopped = self.pauses.of(key)
        if stopped is not None:
            raise refusal(stopped)
        return key

    def enter(self, request: Request, route: str) -> Place:
        """A place for a request that will cost something; a refusal is counted.

        Raises:
            ApiError: as `admit`; 429, too many in this minute; 503, the gateway is full.
        """
        try:
            key = self.admit(request)
            self.quota.count_request(key)
            return self.under_way.enter(key, route)
        except ApiError as error:
            self.metrics.count_refused(route, error)
            raise

    async def reload(self) -> None:
        """Read pauses, keys and limits again, and end what was killed.

        Raises:
            Exception: what the first of them failed with; the others are read all the same.
        """
        failed: list[Exception] = []
        # Each by itself: one that cannot be read must not leave a kill without effect.
        for rules in (self.pauses, self.keys, self.quota, self.metrics):
            try:
                await asyncio.to_thread(rules.reload)
            except Exception as error:
                _log.warning("%s stay as they were: %s", type(rules).__name__, error)
                failed.append(error)
            if rules is self.pauses:
                self.under_way.end_killed(self.pauses)
        # Once more: of a request that came in while they were read.
        self.under_way.end_killed(self.pauses)
        if failed:
            raise failed[0]

    async def address(self, model: str, key: Key) -> Digest | None:
        """The adapter that `model` means now; None is the base.

        Raises:
            ApiError: 404 for a model that is not here, 403 where the key may not address it,
                503 while the alias cannot be served.
            EspalierError: a version named exactly is not fit to be loaded.
        """
        alias, exact = self._parse(model, key)
        if exact is None:
            return alias.releases.champion()
        try:
            return await self.admission.exact(exact, self._journals(alias))
        except NotFoundError as error:
            raise _no_model(model, alias.name) from error

    async def models(self, key: Key) -> list[str]:
        """What this key may ask for by name."""
        names = [alias.name for alias in self.aliases if alias.may_address(key)]
        if not key.exact:
            return names
        main = self.aliases.main
        exact = [
            version
            for version in self.versions.resident
            if await self.admission.may_name(version, self._journals(main))
        ]
        return names + [f"{main.name}@{version}" for version in ("base", *exact)]

    def _journals(self, alias: Alias) -> tuple[str, ...]:
        """Whose versions can be named with this alias: its own, and everybody's."""
        return alias.name, self.aliases.main.name

    async def reply(self, place: Place, session: str | None, ask: Ask, shape: Shape) -> Reply:
        """The answer to come, with its version leased and its tokens reserved from this moment.

        Every protocol's requests come through here.
        """
        if ask.tools and ask.json_schema:
            raise ApiError(400, "tools together with a schema: ask for one of them", param="tools")
        room = self.context_length - len(ask.prompt_ids)
        if room < 1:
            raise ApiError(
                400,
                f"the prompt has {len(ask.prompt_ids)} tokens; this model's limit is "
                f"{self.context_length} tokens for prompt and answer together",
                param=ask.prompt_param,
                code="context_length_exceeded",
            )
        key = place.key
        grammar = ask.tool_choice.grammar(ask.tools)
        await require_callable(grammar, key_id=key.key_id)
        one_call = bool(ask.tools) and ask.tool_choice.ends_at_call
        # A forced call ends by itself; what it has to write may be what a text would stop at.
        stops = () if grammar else ask.stops
        alias, exact = self._parse(ask.model, key)
        adapter = await self.address(ask.model, key)
        # Before a route pins its session: what is refused leaves nothing behind.
        most = ask.n * min(ask.max_tokens or room, room)
        charge = self.quota.reserve(key, prompt_tokens=len(ask.prompt_ids), max_new_tokens=most)
        if exact is None:
            adapter = self._route(alias, place, session, ask)
        generate = Generate(
            adapter=adapter,
            prompt_ids=ask.prompt_ids,
            n=ask.n,
            max_tokens=min(ask.max_tokens or room, room),
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=ask.top_k,
            seed=ask.seed,
            stop_ids=self.template.stop_ids,
            stops=list(stops),
            json_schema=ask.json_schema,
            grammar=grammar,
            logprobs=True,
            top_logprobs=ask.top_logprobs,
            priority="interactive",
        )
        exchange = Exchange(
            request_id=new_request_id(shape.prefix),
            key=key,
            label=key.label
            if adapter is None
            else join((key.label, self.admission.label_of(adapter))),
            session=session,
            base=self.base.digest,
            adapter=adapter,
            template=self.template.digest if ask.chat else None,
            messages=ask.messages,
            tools=ask.tools,
            generate=generate,
            answers=[
                Answer(self.template, stops=stops, tools=ask.tools, one_call=one_call)
                for _ in range(ask.n)
            ],
            started_at=time.time(),
        )
        place.carry(exchange, charge)
        self.counts.requests += 1
        return Reply(
            place,
            exchange,
            shape,
            self.versions.lease(adapter),
            engine=self.engine,
            versions=self.versions,
            ingest=self.ingest,
            counts=self.counts,
            stream=ask.stream,
            headers=self.quota.headers(key),
        )

    def _route(self, alias: Alias, place: Place, session: str | None, ask: Ask) -> Digest | None:
        """The version for this request, which a rollout may compare with others."""
        caller = Caller(
            key_id=place.key.key_id, session=session, user=ask.user, messages=ask.messages
        )
        route = alias.router.route(caller)
        place.on_end = partial(alias.canary.ended, route, caller)
        return route.adapter

    def _parse(self, model: str, key: Key) -> tuple[Alias, str | None]:
        """The alias in a model's name, and the exact version after its @, if there is one."""
        name, at, exact = model.partition("@")
        alias = self.aliases.find(name)
        if alias is None:
            raise _no_model(model, self.aliases.main.name)
        if not alias.may_address(key):
            raise ApiError(
                403,
                f"{name!r} is for keys of team {alias.team!r}, this key's is {key.team!r}",
                kind="permission_error",
                param="model",
            )
        if at and not key.exact:
            raise ApiError(
                403,
                f"this key may address {name!r} only, not an exact version",
                kind="permission_error",
                param="model",
            )
        return alias, exact if at else None


def _no_model(model: str, alias: str) -> ApiError:
    return ApiError(
        404,
        f"no model {model[:100]!r} here; ask for {alias!r}",
        param="model",
        code="model_not_found",
    )
