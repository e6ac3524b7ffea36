// Preloaded into Azurite by azurite.py, so that it closes cleanly - which is when it writes its metadata -
// also when its parent is killed. The parent holds the other end of our stdin; the kernel closes it.
"use strict";

let closing = false;

// Azurite listens for one SIGTERM only. The listener here stays, so that a second one can not cut off the
// writing; before Azurite listens at all, it has acknowledged nothing and may just end.
process.on("SIGTERM", () => {
  if (process.listenerCount("SIGTERM") > 1) closing = true;
  else if (!closing) process.exit(143);
});

process.stdin.on("error", () => {});
process.stdin.on("close", () => process.emit("SIGTERM"));
process.stdin.resume();
process.stdin.unref();
