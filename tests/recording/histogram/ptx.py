"""PTX on a CPU: the threads of a block in step, so that a compiled kernel can be run where there is no GPU.

Knows what the kernel of `triton_kernel` needs of PTX ISA 8.7. Branches must be the same for all threads.
Between two barriers no thread may touch what another one writes in shared memory: that is a race.
"""

import operator
import re

import numpy as np

TYPES = {f"{letter}{8 * size}": np.dtype(f"{letter}{size}") for letter in "uf" for size in (2, 4, 8)}
TYPES |= {f"s{8 * size}": np.dtype(f"i{size}") for size in (2, 4, 8)}
TYPES |= {f"b{8 * size}": np.dtype(f"u{size}") for size in (2, 4, 8)} | {"pred": np.dtype(bool)}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "xor": np.bitwise_xor,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "min": np.fmin,
    "max": np.fmax,  # of a number and NaN the number, as in PTX
}
UNARY = {"neg": np.negative, "abs": np.abs, "not": np.invert, "popc": np.bitwise_count}
COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
NOBODY, MANY = -1, -2


class Kernel:
    """One compiled kernel.

    `launch(arguments, memory, n_blocks)` runs it; pointers are positions in `memory`, uint8 [byte].
    """

    def __init__(self, ptx, n_threads):
        self.n_threads, self.code, self.labels, self.shared = n_threads, [], {}, {}
        self.parameters = re.findall(r"\.param .*?(\w+_param_\d+)", ptx)
        body = re.sub(r"//.*", "", ptx[ptx.index("\n{") + 2 : ptx.index("$L__func_end")])
        size = 0
        for line in filter(None, map(str.strip, re.split(r"[;\n]", body))):
            if label := re.match(r"(\$\w+):", line):
                self.labels[label[1]] = len(self.code)
            elif table := re.match(r"\.shared \.align 16 \.b8 (\w+)\[(\d+)\]", line):
                assert table[1] not in self.shared
                self.shared[table[1]] = size
                size += int(table[2])
            elif found := re.match(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s*(.*)", line):
                arguments = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", found[4])
                self.code.append((found[1], found[2], found[3], arguments))
        self.shared["global_smem"] = size  # what is sized at launch lies behind
        self.shared_size = size + 1024

    def launch(self, arguments, memory, n_blocks):
        for number in range(n_blocks):
            Block(self, dict(zip(self.parameters, arguments, strict=False)), memory, number, n_blocks).run()


class Block:
    """The threads of one block; a register is an array [thread]."""

    def __init__(self, kernel, arguments, memory, number, n_blocks):
        self.kernel, self.arguments, self.memory = kernel, arguments, memory
        self.threads = np.arange(kernel.n_threads)
        self.shared = np.full(kernel.shared_size, 0xAB, np.uint8)  # what is not cleared is not zero
        special = {"%tid.x": self.threads, "%ctaid.x": number, "%nctaid.x": n_blocks}
        self.registers = {name: self.spread(value, "u32") for name, value in special.items()}
        self.wait()

    def run(self):
        line = 0
        with np.errstate(all="ignore"):
            while True:
                negated, predicate, opcode, arguments = self.kernel.code[line]
                line += 1
                mask = np.full(len(self.threads), True) if predicate is None else self.registers[predicate]
                mask = ~mask if negated else mask
                name, *parts = opcode.split(".")
                if name == "ret":
                    return
                if name == "bra":
                    assert mask.all() or not mask.any(), "a branch that only some threads take"
                    line = self.kernel.labels[arguments[0]] if mask.all() else line
                elif name == "bar":
                    self.wait()
                elif name in ("ld", "st", "red", "atom") and "param" not in parts:
                    self.access(name, parts, arguments, mask)
                else:
                    self.write(arguments[0], self.compute(name, parts, arguments[1:]), mask)

    def spread(self, value, kind):
        return np.broadcast_to(np.asarray(value).astype(TYPES[kind]), self.threads.shape)

    def read(self, text, kind):
        """Return an operand, its bits taken as `kind`; of a wider register the lower ones."""
        if text.startswith("{"):
            half = f"b{4 * TYPES[kind].itemsize}"
            parts = [self.read(part, half) for part in re.findall(r"%\w+", text)]
            return np.stack(parts, 1).view(TYPES[kind])[:, 0]
        if kind == "pred":
            return self.registers.get(text, text != "0")
        if text in self.registers:
            bits = self.registers[text]
            width = TYPES[kind].itemsize
            return bits.view(f"u{bits.itemsize}").astype(f"u{width}").view(TYPES[kind])
        if text.startswith(("0f", "0d")):
            digits = text[2:]
            return self.spread(int(digits, 16), f"b{4 * len(digits)}").view(TYPES[kind])
        number = self.kernel.shared[text] if text in self.kernel.shared else int(text, 0)
        return self.spread(np.int64(number) if number < 1 << 63 else np.uint64(number), kind)

    def write(self, text, values, mask):
        values = np.ascontiguousarray(np.broadcast_to(values, self.threads.shape))
        if text.startswith("{"):
            halves = values.view(f"u{values.itemsize // 2}").reshape(len(values), 2)
            for part, half in zip(text.strip("{} ").split(","), halves.T, strict=True):
                self.write(part.strip(), half, mask)
        elif text != "_":
            before = self.registers.get(text, np.zeros_like(values))
            self.registers[text] = np.where(mask, values, before.view(values.dtype))

    def compute(self, name, parts, arguments):
        """Return what an instruction without side effects gives."""
        kind = parts[-1]
        if name == "ld":
            number = re.search(r"\w+", arguments[0])[0]
            return self.spread(self.arguments[number], kind)
        if name == "shfl":
            return self.read(arguments[0], "b32")[self.threads ^ int(arguments[1])]
        if name == "redux":
            lanes = self.read(arguments[0], kind).reshape(-1, 32)
            return np.repeat(BINARY[parts[1]].reduce(lanes, 1, dtype=lanes.dtype), 32)
        if name == "selp":
            choice = self.read(arguments[2], "pred")
            return np.where(choice, self.read(arguments[0], kind), self.read(arguments[1], kind))
        if name == "cvt":
            return self.read(arguments[0], kind).astype(TYPES[parts[-2]])
        if name == "setp":
            return compare(parts[0], *(self.read(text, kind) for text in arguments))
        if name == "mov":
            return self.read(arguments[0], kind)
        return self.calculate(name, kind, arguments, is_wide="wide" in parts)

    def calculate(self, name, kind, arguments, is_wide):
        """Return what an arithmetic instruction gives."""
        if name not in ("fma", "mad", "mul"):
            operands = [self.read(text, kind) for text in arguments]
            return (BINARY[name] if name in BINARY else UNARY[name])(*operands).astype(TYPES[kind])
        # Products of float32 are exact in float64.
        wide = f"{kind[0]}64"
        left, right = (self.read(text, kind).astype(TYPES[wide]) for text in arguments[:2])
        product = left * right
        if name != "mul":
            product = product + self.read(arguments[2], wide if is_wide else kind)
        return product if is_wide else product.astype(TYPES[kind])

    def access(self, name, parts, arguments, mask):
        """Read or write memory."""
        kind = TYPES[parts[-1]]
        base, offset = re.search(r"\[\s*([%\w.]+)\s*\+?\s*(\d*)\s*\]", " ".join(arguments)).groups()
        place = (self.read(base, "s64") + int(offset or 0))[mask]
        is_shared = "shared" in parts
        cells = (self.shared if is_shared else self.memory).view(kind)
        names = re.findall(r"[%\w]+", arguments[0]) if name == "ld" else [""]
        for turn, register in enumerate(names):
            index, rest = np.divmod(place + turn * kind.itemsize, kind.itemsize)
            assert not rest.any(), "not aligned"
            assert ((index >= 0) & (index < cells.size)).all(), "outside of the memory"
            if name == "ld":
                values = np.zeros(len(mask), kind)
                values[mask] = cells[index]
                self.write(register, values, mask)
            else:
                values = self.read(arguments[-1], parts[-1])[mask]
                if name == "st":
                    cells[index] = values
                else:
                    (BINARY["add"] if name == "red" else BINARY[parts[-2]]).at(cells, index, values)
            if is_shared:
                for word in range(kind.itemsize // 4):
                    self.watch(name, index * kind.itemsize // 4 + word, self.threads[mask], values)

    def wait(self):
        """Pass a barrier: who read, wrote and added to each word since the last one is of no account."""
        self.used = {name: np.full(len(self.shared) // 4, NOBODY) for name in ("ld", "st", "red")}

    def watch(self, name, words, threads, values):
        """Find races: several threads may read a word, or add to it, or clear it."""
        for other, users in self.used.items():
            if name != other or name == "st":
                found = users[words]
                assert ((found == NOBODY) | (found == threads)).all(), f"a race of {name} and {other}"
        several = np.bincount(words, minlength=len(self.shared) // 4) > 1
        assert name != "st" or not several.any() or not values.any(), "several threads write a word"
        users = self.used[name]
        users[words] = np.where((users[words] == NOBODY) | (users[words] == threads), threads, MANY)
        users[several] = MANY


def compare(relation, left, right):
    """Compare as `setp` does: with NaN only what ends with u is true."""
    if relation not in COMPARE:
        return compare(relation[:-1], left, right) | np.isnan(left) | np.isnan(right)
    is_ordered = ~(np.isnan(left) | np.isnan(right))
    return COMPARE[relation](left, right) & is_ordered
