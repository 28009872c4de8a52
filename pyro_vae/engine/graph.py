"""Graphs: run a Python program on tensors once, keep what it did as one compiled graph."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae._signals import stopping
from pyro_vae.engine.cache import keep_compiled_code_private
from pyro_vae.engine.errors import NotCapturable, ReadsBack, Stopping
from pyro_vae.engine.estimators import estimators_stay_tensors
from pyro_vae.engine.memory import elements, overlap, preserved, span, twin
from pyro_vae.engine.onednn import mkl_is_slow, use_onednn
from pyro_vae.engine.readback import values_stay_inside
from pyro_vae.engine.replacing import replaced
from pyro_vae.engine.validation import validated_in_tensors
from pyro_vae.engine.writes import addressed, written

__all__ = [
    "LIFTED",
    "Function",
    "Graph",
    "is_made_of_numbers",
    "is_random",
    "never_seeded",
    "refusal",
    "values_stay_tensors",
]

Function = Callable[..., Any]


@contextmanager
def values_stay_tensors() -> Iterator[None]:
    """Inside it, Pyro's estimators leave values in tensors, and so do checks."""
    with validated_in_tensors(), estimators_stay_tensors():
        yield


class Graph:
    """Creates the compiled graph of ``function``: same arguments, same effects, same results.

    The first call compiles. What it takes to be the same is the caller's to guard: the layouts of
    the arguments, and the ``Dependencies`` of the programs inside.

    Args:
        function: Takes tensors; returns a list of tensors; may update in place what it reads.
        state: What it reads besides its arguments.
        args: Tensors like those it will be called with.

    Attributes:
        draws_as_torch: Whether it draws the random numbers that the program draws, run as it is:
            on other devices than the CPU the compiler has a generator of its own.

    Raises:
        NotCapturable: If the program reads values back, or draws numbers that are not torch's.
    """

    def __init__(self, function: Function, state: Sequence[Tensor], args: Sequence[Tensor]) -> None:
        # An argument may be the very tensor that the program also reaches some other way.
        args = [arg.detach() for arg in args]
        state = list({id(t): t for t in state}.values())
        module = _trace(function, state, args)
        # One entry an input of the graph: the tensor itself, or the number of the argument.
        self._inputs: list[Tensor | int] = []
        graph = module.graph
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        for node, source in zip(placeholders, [*state, *range(len(args))], strict=True):
            if node.users:
                self._inputs.append(source)
            else:
                graph.erase_node(node)
        constants = [node for node in graph.nodes if node.op == "get_attr"]
        # What was there before the run, and nobody has named, may come from a cache: of another
        # tensor the program would find something else there.
        self._rebinds = all(map(is_made_of_numbers, constants))
        for node in constants:
            # What was not named as state is read where it is, too, instead of being baked in.
            with graph.inserting_before(next(iter(graph.nodes))):
                placeholder = graph.placeholder(node.name + "_lifted")
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
            self._inputs.insert(0, getattr(module, node.target))
        for name in list(module._buffers):
            # The compiler would pass them on beside the inputs, which then are not all it takes.
            delattr(module, name)
        self._count = len(args)
        self._replaced: list[Tensor] = []  # what it reads in the place of some that it held
        self._sort(graph)
        module.recompile()
        # The compiler may change the module that it is given.
        self._module = torch.fx.GraphModule(module, copy.deepcopy(graph))
        self._call: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
        self._template: list[Any] = []
        self._from_args: list[tuple[int, int]] = []
        self._outputs: list[int] = []
        self._places: list[int] = []
        self._on_cuda = all(t.is_cuda for t in self._fill(args))
        drawn = {node.target for node in graph.nodes if is_random(node)}
        on_cpu = all(t.device.type == "cpu" for t in self._fill(args))
        self.draws_as_torch = not drawn or (on_cpu and all(map(_is_drawn_by_torch, drawn)))
        self._compile(module, args)

    @property
    def name(self) -> Literal["inductor", "cuda-graph"]:
        """What runs it."""
        return "cuda-graph" if self._on_cuda else "inductor"

    @torch.no_grad()
    def uncompiled(self, *args: Tensor) -> list[Tensor]:
        """Runs what was captured operation by operation, with torch's own random numbers."""
        return list(self._module(*self._fill((*args, *self._replaced))))

    @property
    def held(self) -> list[Tensor]:
        """The tensors that it reads besides its arguments."""
        return [*self._fixed(), *self._replaced]

    def rebind(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Has it read other tensors in the place of some that it may hold, from the next run on.

        Compiled code takes for granted which inputs share memory with one that is written to:
        neither of a pair may.

        Args:
            pairs: A tensor, and one of the same layout that takes its place.

        Returns:
            Whether it does; otherwise everything is as before.
        """
        new = {id(then): now for then, now in pairs}
        if not self._rebinds or any(id(tensor) in new for tensor in self._tied):
            return False
        spans = [span(now) for now in new.values()]
        if any(overlap(span(tensor), each) for tensor in self._written for each in spans):
            return False
        self._replaced = [new.get(id(tensor), tensor) for tensor in self._replaced]
        for i, tensor in enumerate(self._inputs):
            if isinstance(tensor, int) or id(tensor) not in new:
                continue
            number = self._count + len(self._replaced)
            self._replaced.append(new[id(tensor)])
            self._inputs[i] = number
            for position, source in enumerate(self._template):
                if source is tensor:
                    self._template[position] = None
                    self._from_args.append((position, number))
            self._places = []  # a CUDA graph has it as one that stays
        return True

    def __call__(self, *args: Tensor) -> list[Tensor]:
        """Runs the graph."""
        if self._replaced:
            args = (*args, *self._replaced)
        with torch.no_grad():
            if self._call is None:
                return self._first_call(args)
            if self._on_cuda:
                return self._replay(args)
            return self._direct(args)

    def _direct(self, args: Sequence[Tensor]) -> list[Tensor]:
        assert self._call is not None
        inputs = self._template.copy()
        for position, number in self._from_args:
            inputs[position] = args[number]
        outputs = self._call(inputs)
        return [outputs[i] for i in self._outputs]

    def _replay(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Replays the compiled code's launches from a CUDA graph.

        The compiler's own CUDA graphs leave out code that updates its inputs, as this does. A graph
        has addresses baked in: small arguments are copied to where they were when it was recorded;
        it is recorded again when a large one (a data set) or a parameter has moved.
        """
        large = [arg for arg in args if not _is_small(arg)]
        held = self._fixed() + large
        places = [tensor.data_ptr() for tensor in held]
        if places != self._places:
            self._places = places
            self._static = [twin(arg) if _is_small(arg) else arg for arg in args]
            self._cuda_graph = torch.cuda.CUDAGraph()
            # The default generator is registered with every capture: each replay draws anew.
            with torch.cuda.graph(self._cuda_graph):
                self._static_outputs = self._direct(self._static)
        for static, arg in zip(self._static, args, strict=True):
            if _is_small(arg):
                elements(static).copy_(elements(arg), non_blocking=True)
        self._cuda_graph.replay()
        return [output.clone() for output in self._static_outputs]

    def _sort(self, graph: torch.fx.Graph) -> None:
        """Finds out what it writes to, and what cannot be another tensor for that."""
        nodes = [node for node in graph.nodes if node.op == "placeholder"]
        inputs = [(n, t) for n, t in zip(nodes, self._inputs, strict=True) if isinstance(t, Tensor)]
        into, at = written(graph), addressed(graph)
        self._written = [tensor for node, tensor in inputs if node in into]
        self._rebinds &= len(self._written) == len(into)  # arguments may share any memory
        spans = [span(tensor) for tensor in self._written]
        self._tied = [
            tensor
            for node, tensor in inputs
            if node in at or any(overlap(span(tensor), each) for each in spans)
        ]

    def _fixed(self) -> list[Tensor]:
        return [tensor for tensor in self._inputs if isinstance(tensor, Tensor)]

    def _fill(self, args: Sequence[Tensor]) -> list[Tensor]:
        return [args[s] if isinstance(s, int) else s for s in self._inputs]

    def _compile(self, module: torch.fx.GraphModule, args: Sequence[Tensor]) -> None:
        keep_compiled_code_private()
        # Seconds to import: not for a program that compiles nothing.
        from torch._inductor import compile_fx, config
        from torch._inductor.decomposition import select_decomp_table
        from torch._inductor.lowering import make_fallback

        self._passed: list[Any] = []
        self._returned: Sequence[Any] = []

        def inner(module: torch.fx.GraphModule, examples: Any, **kwargs: Any) -> Any:
            self._code = compile_fx.compile_fx_inner(module, examples, **kwargs)

            def record(boxed: list[Any]) -> Any:
                self._passed = list(boxed)
                self._returned = self._code(boxed)
                return self._returned

            record._boxed_call = True  # type: ignore[attr-defined]
            return record

        options = self._options(args)
        try:
            with (
                torch.no_grad(),
                config.patch(options),
                warnings.catch_warnings(action="ignore"),  # the compiler's, about its own code
            ):
                examples = [tensor.detach() for tensor in self._fill(args)]
                decompositions = dict(select_decomp_table())
                if "fallback_random" in options:
                    # It would compare other random numbers, in single precision. That torch's
                    # own kernel is meant has to be said: under CI=1 the compiler refuses to guess.
                    bernoulli = torch.ops.aten.bernoulli.default
                    decompositions.pop(bernoulli, None)
                    make_fallback(bernoulli, warn=False, override_decomp=True)
                self._outer: Any = compile_fx.compile_fx(
                    module, examples, inner_compile=inner, decompositions=decompositions
                )
        except Exception as error:  # whatever stops the compiler: the program itself still runs
            if stopping():
                # A terminal interrupts what the compiler has started as well: its failure is ours.
                raise Stopping("asked to stop while it was compiled") from error
            raise NotCapturable(f"the compiler failed: {_first_line(error)}") from error

    def _options(self, args: Sequence[Tensor]) -> dict[str, Any]:
        on_cpu = all(tensor.device.type == "cpu" for tensor in self._fill(args))
        # Layouts are guarded already. On the CPU torch's own random numbers are several times
        # faster than the compiler's, which come one at a time, and are those of an eager step.
        return {"size_asserts": False, **({"fallback_random": True} if on_cpu else {})}

    def _first_call(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Runs once, and finds the shortest way to the compiled code.

        AOT autograd wraps that in a prologue which costs a tenth of a small step. What it passes on
        is our inputs in some order: seen once, the same list can be put together without it. Should
        anything else come, the wrapper stays.
        """
        # Two of them may be one object in this call, and not in the next.
        inputs = [tensor.detach() for tensor in self._fill(args)]
        outputs = list(self._outer(*inputs))
        number = {id(tensor): i for i, tensor in enumerate(inputs)}
        order = {id(tensor): i for i, tensor in enumerate(self._returned)}
        plain = all(id(t) in number for t in self._passed)
        if self._passed and plain and all(id(t) in order for t in outputs):
            self._call = self._code
            self._outputs = [order[id(t)] for t in outputs]
            sources = [self._inputs[number[id(t)]] for t in self._passed]
        else:
            self._call = lambda boxed: self._outer(*boxed)
            self._outputs = list(range(len(outputs)))
            sources = self._inputs
        self._template = [None if isinstance(source, int) else source for source in sources]
        self._from_args = [(i, s) for i, s in enumerate(sources) if isinstance(s, int)]
        del self._passed, self._returned
        return outputs


# The compiler leaves those on the CPU to torch; others it may make of these, in another way.
_DRAWN_BY_TORCH = {
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"),
    *("uniform_", "normal_", "normal", "bernoulli_", "exponential_", "geometric_", "cauchy_"),
    *("log_normal_", "_standard_gamma", "poisson", "binomial", "multinomial", "random_"),
}


# Of a constant that has come from numbers of Python's.
LIFTED = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)


def is_made_of_numbers(constant: torch.fx.Node) -> bool:
    """Tells whether it holds numbers of Python's, of which the run makes a tensor."""
    return all(user.target in LIFTED for user in constant.users)


def is_random(node: torch.fx.Node) -> bool:
    """Tells whether an operation of a graph draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_drawn_by_torch(operation: Any) -> bool:
    return operation._overloadpacket.__name__ in _DRAWN_BY_TORCH


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() <= 2**20


def _draws() -> tuple[Any, ...]:
    """The state of the random numbers that are not torch's."""
    return random.getstate(), str(np.random.get_state())


@contextmanager
def never_seeded() -> Iterator[None]:
    """Refuses a program that sets the state of torch's random numbers: a graph would not."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotCapturable("it sets the state of torch's random numbers")

    names = ("manual_seed", "seed", "set_rng_state")
    with replaced([(owner, name, refuse) for owner in (torch, torch.random) for name in names]):
        yield


def _run(function: Function, args: Sequence[Tensor]) -> Any:
    with values_stay_inside():
        return function(*args)


_INTERNAL = ("torch._dynamo", "torch._inductor", "torch._functorch", "pyro_vae.engine")


def refusal(error: Exception) -> NotCapturable:
    """Returns why a program cannot be captured that has just run, from what came instead."""
    reason = _first_line(error)
    if "trying to get value out of a tracing tensor" in reason:
        return ReadsBack("it reads a value back (control flow on data, or `.item()`)")
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    if where.startswith(_INTERNAL):
        return NotCapturable(f"an internal error, {type(error).__name__} in {where}: {reason}")
    return NotCapturable(reason)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _trace(
    function: Function, state: Sequence[Tensor], args: Sequence[Tensor]
) -> torch.fx.GraphModule:
    """Runs ``function`` once under make_fx, on real tensors that it leaves as they were."""
    # Imported by make_fx, it makes tables of torch's functions: of those that are not replaced.
    import torch._inductor.config

    tensors = [*state, *args]
    draws = _draws()
    with preserved(state), never_seeded():
        try:
            # The tracer knows a tensor by its identity: it is enough to name them as inputs.
            with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
                module = make_fx(lambda *_: _run(function, args))(*tensors)
        except NotCapturable:
            raise
        except Exception as error:  # the program has just run: it is the capture that fails
            raise refusal(error) from error
        if draws != _draws():
            raise NotCapturable("it draws from Python's or NumPy's random numbers")
    module.graph.eliminate_dead_code()
    if mkl_is_slow():
        use_onednn(module.graph)
    for node in module.graph.nodes:
        node.meta.clear()  # fake tensors of a tracing mode that the compiler does not share
    module.graph.set_codegen(torch.fx.graph.CodeGen())  # a flat signature
    return module
