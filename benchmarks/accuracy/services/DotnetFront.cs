// SPDX-License-Identifier: Apache-2.0
using System;
using System.Linq;
using System.Net;
using System.Net.Http;
using System.Text;
using System.Threading.Tasks;

/// DotnetFront PORT LEAF keep|close: HttpListener, calls by HttpClient, awaits deep on the thread pool.
static class DotnetFront
{
    static string leaf;
    static bool keep;
    static readonly HttpClient Client = new HttpClient();

    static async Task<int> Call(string number, int which, string what = "")
    {
        var query = what == "" ? "" : "?do=" + what;
        var request = new HttpRequestMessage(HttpMethod.Get, "http://127.0.0.1:" + leaf + "/leaf/" + number + "/" + which + query);
        request.Headers.Add("x-truth", number + "/" + which);
        request.Headers.ConnectionClose = !keep;
        using (var response = await Client.SendAsync(request))
        {
            await response.Content.ReadAsStringAsync();
            return (int)response.StatusCode;
        }
    }

    static async Task<int[]> Work(string number, string shape)
    {
        await Task.Delay(1); // as a cache is asked before the call
        switch (shape)
        {
            case "seq":
                return new[] { await Call(number, 1), await Call(number, 2) };
            case "par":
                return await Task.WhenAll(Call(number, 1), Call(number, 2));
            case "retry":
                var status = await Call(number, 1, "fail");
                return new[] { status == 503 ? await Call(number, 1, "fail") : status };
            default:
                return new[] { await Call(number, 1, shape == "slow" ? "slow" : "") };
        }
    }

    static async Task Front(HttpListenerContext context)
    {
        var number = context.Request.Url.AbsolutePath.Split('/').Last();
        var answer = 502;
        try
        {
            var statuses = await Work(number, context.Request.Url.Query.Replace("?mode=", ""));
            answer = statuses.All(status => status == 200) ? 200 : 502;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine(error);
        }
        var body = Encoding.ASCII.GetBytes(number + "\n");
        context.Response.StatusCode = answer;
        context.Response.ContentLength64 = body.Length;
        await context.Response.OutputStream.WriteAsync(body, 0, body.Length);
        context.Response.Close();
    }

    static async Task Serve(HttpListener listener)
    {
        while (true)
        {
            var context = await listener.GetContextAsync();
            var _ = Front(context);
        }
    }

    static void Main(string[] arguments)
    {
        leaf = arguments[1];
        keep = arguments[2] == "keep";
        var listener = new HttpListener();
        listener.Prefixes.Add("http://127.0.0.1:" + arguments[0] + "/");
        listener.Start();
        Serve(listener).Wait();
    }
}
