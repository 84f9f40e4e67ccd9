"""Boot a machine image under Bochs and run one command in it. The emulated CPU is Intel's, with VMX and EPT."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bochs import Bochs
from image import Image, fill_cylinder
from machine import make_job, result, watch

CPU = "corei7_skylake_x"
INSTRUCTIONS_PER_SECOND = 400_000_000
"""Of the machine's own time, and the frequency of its TSC. KVM uses VMX's preemption timer up to 429 MHz."""
MEMORY_MIB = 1536
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin"), Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
# The CPUID of the model has the TSC frequency of the real CPU, so the kernel is told the right one. idle=halt: Bochs
# continues at the next event after HLT, not after MWAIT. enable_apicv=0: Bochs delivers virtual interrupts too early,
# and Linux guests then crash.
APPEND = f"""
    console=ttyS0,115200 loglevel=6 panic=-1 net.ifnames=0 mitigations=off nokaslr nowatchdog no_timer_check
    tsc=reliable tsc_early_khz={INSTRUCTIONS_PER_SECOND // 1000} idle=halt rcupdate.rcu_expedited=1
    kvm_intel.enable_apicv=0
"""
# Bochs has no virtio. The machine finds its disks by model. Its serial ports are the console, output and status.
CONFIGURATION = """
config_interface: textconfig
display_library: nogui
memory: guest={memory}, host={memory}
romimage: file={bochs.bios}
vgaromimage: file={bochs.vgabios}
cpu: model={cpu}, count=1, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1
clock: sync=none, time0=utc
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata0-master: type=disk, path={image.disk}, mode=volatile, journal={folder}/root.journal, model="root"
ata0-slave: type=disk, path={folder}/job.tar, mode=flat, model="job"
ata1-master: type=cdrom, path={folder}/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/console.log
com2: enabled=1, mode=file, dev=/proc/self/fd/{output}
com3: enabled=1, mode=file, dev={folder}/status
log: {folder}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


def _make_disc(image: Image, append: str, folder: Path) -> None:
    """Write boot.iso, which starts the kernel. Bochs itself cannot load a kernel."""
    files = folder / "iso"
    files.mkdir(exist_ok=True)
    for file in (*ISOLINUX, image.kernel, image.initrd):
        shutil.copy(file, files)
    lines = ["default e2e", "label e2e", "kernel vmlinuz", "initrd initrd", f"append {append}"]
    (files / "isolinux.cfg").write_text("\n".join(lines) + "\n")
    boot = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", folder / "boot.iso", *boot, files],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def run(
    bochs: Bochs,
    image: Image,
    checkout: Path,
    *,
    extra: dict[str, Path],
    command: str,
    timeout: float,
    systemd: bool = False,
    keep: Path | None = None,
) -> int:
    """Do what machine.run() does, under Bochs. There is no shell."""
    with tempfile.TemporaryDirectory(prefix="kvm-exit-exporter-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        status, console = folder / "status", folder / "console.log"
        for old in (status, folder / "job.tar.lock"):  # Bochs leaves its lock if it is killed
            old.unlink(missing_ok=True)
        make_job(folder / "job.tar", checkout, extra, command)
        fill_cylinder(folder / "job.tar")
        _make_disc(image, " ".join(APPEND.split()) + (" e2e.systemd" if systemd else ""), folder)
        reader, writer = os.pipe()
        configuration = CONFIGURATION.format(
            memory=MEMORY_MIB, cpu=CPU, ips=INSTRUCTIONS_PER_SECOND, bochs=bochs, image=image, folder=folder,
            output=writer,
        )  # fmt: skip
        (folder / "bochsrc").write_text(configuration)
        with (folder / "bochs.out").open("wb") as out:
            process = subprocess.Popen(
                [bochs.program, "-q", "-f", folder / "bochsrc"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[writer],
                env={**os.environ, "TMPDIR": str(folder)},
            )  # fmt: skip
        with process:
            os.close(writer)
            timed_out = watch(process, reader, timeout)
        return result(status, console, timed_out)
