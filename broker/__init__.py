"""An inference broker without tokens: the agent proves who it is, the broker holds the keys.

The path of one request. `serve` in pipeline.py walks it in this order.

    local gateway  local_gateway.py      plain HTTP on the pod's loopback in, mutual TLS to the broker out
    accept         server.py, http1/     mutual TLS in, heads judged by the byte, bodies bounded
    identify       trust.py, identity.py X.509-SVID to Identity, asked anew for each request
    read           dialects/, judges/    what is asked, and what it may cost at most
    authorize      policy/               Identity and model to Grant; silence is no
    restrict       features.py           what agents of one provider account would share
    open           kept.py, ids/, sealing/  ids of kept state: sealed to who made it, opened for nobody else
    route          routing.py            a ready backend that speaks the caller's dialect
    admit          admission.py, quota.py, ledger/  hold what it may cost, for all quotas in one step
    credential     credentials.py        looked up last, per attempt, kept nowhere
    forward        upstream.py           providers/ say how; the only file that calls a provider for an agent
    meter          metering.py, sse.py   what the provider billed
    settle         ledger/               give back what was not used; unknown means all of it
    audit          audit/                one line, whatever happened

Where the rest comes from: objects/ and files.py read what people wrote, kube/ reads it in a cluster, world.py is the state of all of it
that is in force, house.py what every exchange may use, exchange.py what is known of one; issuer.py is `broker dev`'s SPIFFE authority,
admin_door.py and usage/ are the operator's way to what was used, review/ tells who may call what and what an edit changes,
doctor/ says what keeps a broker from working, and what to do,
tracing.py and otlp/ tell an OpenTelemetry collector of it, telemetry.py tells Prometheus,
herald.py tells refusals as Events of the cluster, controller/ writes into the objects' status what became of them,
wiring.py builds and closes everything, cli.py has the commands, dev.py all of it on one machine, plugin/ the commands of kubectl.

Small rooms, by whom they serve:
    words of all       errors.py grant.py chat.py money.py names.py config.py measures.py cells.py turns.py logs.py
    the doors          unserved.py model_list.py wording/ sdk_env.py admin.py
    dialects           body.py forms.py sse.py demand.py tallies/
    quotas             counting.py spelling.py adjustment.py
    who is who         svids.py truststate.py workload_api.py grpc.py authority.py keyfile.py
    the way out        addresses.py hosts.py overheard.py
    figures, traces    figures.py series.py genai.py tracecontext.py
    commands           auditing.py
"""
