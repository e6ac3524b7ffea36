// Headless Chromium, driven by lines of JSON: opens a page, evaluates a function in it, and answers with its value.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const home = process.argv[2];
const require = createRequire(join(home, 'package.json'));
const { default: packed } = await import(pathToFileURL(require.resolve('@sparticuz/chromium')));
const { chromium } = require('playwright-core');

const executablePath = join(home, 'chromium');
if (!existsSync(executablePath)) throw new Error(`no browser at ${executablePath}`);

// Of its own arguments some turn off what is to be tested: a browser that keeps origins apart.
const unsafe = /web-security|insecure-content|site-isolation|IsolateOrigins|single-process|no-zygote/;
const browser = await chromium.launch({
  executablePath,
  args: packed.args.filter((each) => !unsafe.test(each)),
});
try {
  for await (const line of createInterface({ input: process.stdin })) {
    const { page: url, function: text, argument } = JSON.parse(line);
    let answer;
    const page = await browser.newPage({ bypassCSP: true });
    try {
      await page.goto(url);
      answer = { value: await page.evaluate(`(${text})(${JSON.stringify(argument)})`) };
    } catch (error) {
      answer = { error: String(error) };
    } finally {
      await page.close();
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
} finally {
  await browser.close();
}
