"""An inference broker without tokens: the agent proves who it is, the broker holds the keys.

The path of one request. `pipeline.serve` walks it in this order.

    local gateway  local_gateway.py      plain HTTP on the pod's loopback in, mutual TLS to the broker out
    accept         server.py, http1/     mutual TLS in, heads judged by the byte, bodies bounded
    identify       trust.py, identity.py X.509-SVID to Identity, asked anew for each request
    read           dialects/, judges/    what is asked, and what it may cost at most
    authorize      policy/               Identity and model to Grant; silence is no
    restrict       features.py           what agents of one provider account would share
    route          routing.py            a ready backend that speaks the caller's dialect
    admit          admission.py, quota.py, ledger/  hold what it may cost, for all quotas in one step
    credential     credentials.py        looked up last, per attempt, kept nowhere
    forward        upstream.py           providers/ say how; the only file that calls a provider for an agent
    meter          metering.py, sse.py   what the provider billed
    settle         ledger/               give back what was not used; unknown means all of it
    audit          audit/                one line, whatever happened

Where the rest comes from: objects/ and files.py read what people wrote, issuer.py is `broker dev`'s SPIFFE authority,
admin_door.py and usage/ are the operator's way to what was used, review/ tells who may call what and what an edit changes,
doctor/ says what keeps a broker from working, and what to do,
tracing.py and otlp/ tell an OpenTelemetry collector of it, telemetry.py tells Prometheus,
herald.py tells refusals as Events of the cluster, controller/ writes into the objects' status what became of them,
wiring.py builds and closes everything, cli.py has the commands, plugin/ those of kubectl.
"""
