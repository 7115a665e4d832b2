// How a check says what it found: a line for each, and a last one that `cargo xtask test` adds up.

export class Report {
  passed = 0;
  failed = 0;

  /** One thing that was looked at, with what is wrong with it. */
  note(name, wrong) {
    const list = [wrong ?? []].flat();
    if (list.length === 0) {
      this.passed += 1;
      return;
    }
    this.failed += 1;
    for (const line of list) console.error(`FAILED ${name}: ${line}`);
  }

  /** Ends the process. */
  end() {
    console.log(`test result: ${this.failed ? 'FAILED' : 'ok'}. ${this.passed} passed; ${this.failed} failed;`);
    process.exit(this.failed ? 1 : 0);
  }
}
