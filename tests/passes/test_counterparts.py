"""Launches that share a kernel lead to nodes of their own, statement by statement."""

import graphc
from graphc import nn, optim
from passes.reuse import counterparts


def test_nodes_of_shared_kernels():
    tokens, targets = (graphc.input(n, (2, 16), dtype="int32") for n in ("tokens", "targets"))
    net = nn.GPT(30, 16, 32, 2, 3)
    loss = graphc.losses.cross_entropy(net(tokens), targets)
    program = graphc.compile({"loss": loss}, updates=optim.Adam(1e-3).updates(loss, net.parameters()), threads=1)
    plain = program.current().loops
    shared = moved = 0
    for launch in plain.launches:
        kernel = plain.kernels[launch.kernel]
        found = counterparts(kernel, launch)
        members = set(launch.nodes)
        for stmt, _ in kernel.statements():
            if not getattr(stmt, "nodes", ()) or type(stmt).__name__ == "Load":  # what is read belongs to others
                continue
            for node in stmt.nodes:
                assert [n.op for n in found[node]] == [node.op]
                assert members.issuperset(found[node]), (kernel.name, node, found[node])
                shared += found[node] != (node,)
        moved += tuple(n.op for n in kernel.nodes) != tuple(n.op for n in launch.nodes)
    assert shared > 50
    assert not moved, "equal layers are numbered alike, whatever the ages of the nodes that they share"
