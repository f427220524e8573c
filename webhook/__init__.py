"""The admission webhook: agents' Pods get their local gateway, and our objects are read before they are stored.

    server.py      HTTPS for the API server, plain HTTP for probes and metrics
    review.py      AdmissionReview in, AdmissionReview out                                 (pure)
    mutate.py      a Pod in, a JSON Patch out                                              (pure)
    validate.py    one of our objects in, faults and warnings out                          (pure)
    neighbours.py  the other objects of its namespace, for the warnings
    pod.py         what of a Pod is read
    sidecar.py     the local gateway as a container, and its volumes                       (pure)
    variables.py   the base URLs and placeholder keys of one container                     (pure)
    certs.py       the serving certificate, changed without a restart
    authority.py   our own CA, for where nobody gives a certificate                        (pure)
    rotation.py    what that CA and its certificate should be at a time                    (pure)
    custody.py     both in a Secret that replicas share, and the CA in the configurations
    config.py      every switch

Injection is a convenience and never a boundary: who writes a Pod can write any container. What an agent may do is decided by the
broker, by the Pod's SVID.
"""
