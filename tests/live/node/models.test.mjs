// Agents as models, under every kind of name.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, ask, connect } from './harness.mjs';

const { client } = connect({ maxRetries: 2 });

test('all are listed', async () => {
  const ids = [];
  for await (const model of client.models.list()) {
    assert.equal(model.object, 'model');
    assert.equal(model.owned_by, 'letta');
    ids.push(model.id);
  }
  assert.equal(new Set(ids).size, ids.length);
  for (const name of agents.names) assert.ok(ids.includes(name), name);
  assert.ok(!ids.includes(agents.twins));
  assert.ok(ids.includes(agents['first twin']) && ids.includes(agents['second twin']));
});

for (const name of agents.names) {
  test(`the name ${JSON.stringify(name)}`, async () => {
    assert.equal((await client.models.retrieve(name)).id, name);
    const whole = await ask(client, name, 'say Hello.', { stream: false });
    assert.deepEqual([whole.text, whole.model], ['Hello.', name]);
  });
}

test('an unknown one is not retrieved', async () => {
  await assert.rejects(client.models.retrieve('no/body'), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    return true;
  });
});
