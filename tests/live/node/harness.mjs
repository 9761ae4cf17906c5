// What the tests of this folder share: clients of the proxy, the agents made for them, the tools they offer.
//
// test_node.py sets LETTA_PROXY_BASE_URL and LETTA_PROXY_AGENTS, a JSON object: the use of an agent to its name.

import OpenAI from 'openai';

function setting(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run these tests with pytest tests/live/test_node.py`);
  return value;
}

export const baseURL = setting('LETTA_PROXY_BASE_URL');
export const agents = JSON.parse(setting('LETTA_PROXY_AGENTS'));

/** A client, and how many HTTP requests it has sent, its own repeats included. */
export function connect({ maxRetries = 0, base = baseURL } = {}) {
  const sent = { count: 0 };
  const counting = (url, options) => {
    sent.count += 1;
    return fetch(url, options);
  };
  const client = new OpenAI({ baseURL: base, apiKey: 'unused', maxRetries, fetch: counting });
  return { client, sent };
}

export const user = (content) => ({ role: 'user', content });

export const rome = '{"city": "Rome", "note": "caf\\u00e9 \\"x\\""}';
export const oslo = '{"city":"Oslo","days":[1, 2.50, null]}';

export const tools = ['get_weather', 'read_file'].map((name) => ({
  type: 'function',
  function: { name, description: `${name}.`, parameters: { type: 'object', properties: {} } },
}));

/** Put the chunks of a stream together, as strictly as the wire is described. */
export async function collect(stream, answer = { text: '', reasoning: '', calls: [], chunks: [] }) {
  for await (const chunk of stream) {
    answer.chunks.push(chunk);
    answer.usage = chunk.usage ?? answer.usage;
    for (const { delta, finish_reason } of chunk.choices) {
      answer.text += delta.content ?? '';
      answer.reasoning += delta.reasoning_content ?? '';
      answer.finish = finish_reason ?? answer.finish;
      for (const { index, id, type, function: part } of delta.tool_calls ?? []) {
        if (index === answer.calls.length) {
          answer.calls.push({ id, type, function: { name: part.name, arguments: '' } });
        } else if (id !== undefined || part.name !== undefined) {
          throw new Error(`a later fragment of call ${index} names it again`);
        }
        answer.calls[index].function.arguments += part.arguments;
      }
    }
  }
  return answer;
}

/** Ask with or without streaming, to the same form of answer. */
export async function ask(client, model, messages, { stream, ...fields }) {
  const said = typeof messages === 'string' ? [user(messages)] : messages;
  const got = await client.chat.completions.create({ model, messages: said, stream, ...fields });
  if (stream) return collect(got);
  const [{ message, finish_reason }] = got.choices;
  return {
    text: message.content ?? '',
    reasoning: message.reasoning_content ?? '',
    calls: message.tool_calls ?? [],
    finish: finish_reason,
    usage: got.usage,
    model: got.model,
  };
}

/** The results a scripted model's answer quotes: Letta hands each over as an object. */
export const quotedResults = (text) =>
  text
    .replace(/^results: /, '')
    .split(' | ')
    .map((part) => JSON.parse(part).message);
